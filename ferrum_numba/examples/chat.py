"""Chat with a GPTQ model, in the terminal.

    python -m ferrum_numba.examples.chat MODEL_DIR

Each line is a message; an empty one, or the end of the input, ends the chat.  Ctrl-C ends an
answer; what the model has said by then stays said.  The tokenizer must have a chat template.
"""

import sys

import ferrum_numba as fe

device = fe.open_device()  # the GPU where one is usable, else the CPU
model = fe.Model.load(sys.argv[1], device=device)
text = fe.Tokenizer.load(sys.argv[1])
messages = []


def answer(ids):
    """Print the model's answer to the ids of the conversation as it comes."""
    stream, said = text.stream(after=ids), ""
    room = model.config.max_positions - len(ids)
    try:
        for token in model.generate(ids, max_new_tokens=min(512, room), temperature=0.7, top_p=0.9):
            part = stream.put(token)
            print(part, end="", flush=True)
            said += part
    except KeyboardInterrupt:
        pass
    rest = stream.end()
    print(rest)
    return said + rest


try:
    while line := input("> "):
        messages.append({"role": "user", "content": line})
        messages.append({"role": "assistant", "content": answer(text.chat(messages))})
except EOFError:
    pass
