"""Sessions: sequences that join, grow, leave, and share the cache, on each device."""

from __future__ import annotations

import gc
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import ferrum_numba as fe

FOLDER = Path(__file__).parents[1] / "fixtures" / "models" / "llama31_rope"
PROMPTS = [[5, 6, 7], [300, 2, 9, 41, 8], [17]]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)], scope="module")
def model(request: pytest.FixtureRequest) -> fe.Model:
    return fe.Model.load(FOLDER, device=fe.open_device(request.param))


def alone(model: fe.Model, prompt: list[int], count: int) -> list[int]:
    """The likeliest tokens behind a prompt, by a session of its own."""
    with model.session(1, 400) as session:
        session.prefill([prompt])
        return [int(session.step()[0]) for _ in range(count)]


def test_a_batch_says_what_its_sequences_say_alone(model: fe.Model) -> None:
    with model.session(4, 64) as session:
        assert session.prefill(PROMPTS[:2]) == [0, 1]
        steps = [session.step() for _ in range(4)]
        assert session.prefill(PROMPTS[2:]) == [2]  # one joins
        steps += [session.step() for _ in range(4)]
        session.release(0)  # one leaves
        steps += [session.step() for _ in range(4)]
        assert session.prefill([PROMPTS[0]]) == [0]  # and its row is taken again
        steps += [session.step() for _ in range(4)]
    drawn = np.array(steps)
    assert drawn[:8, 0].tolist() == alone(model, PROMPTS[0], 8)
    assert drawn[:, 1].tolist() == alone(model, PROMPTS[1], 16)
    assert drawn[4:, 2].tolist() == alone(model, PROMPTS[2], 12)
    assert drawn[8:12, 0].tolist() == [-1] * 4
    assert drawn[12:, 0].tolist() == alone(model, PROMPTS[0], 4)
    assert (drawn[:, 3] == -1).all()
    assert (drawn[:4, 2] == -1).all()


def test_texts_grow_across_pages(model: fe.Model) -> None:
    """A session says the same across its page's end as after one long prompt."""
    page = model.operations.page
    prompt = [3 + i % 300 for i in range(page - 2)]
    with model.session(1, page + 6) as session:
        session.prefill([prompt])
        drawn = [int(session.step()[0]) for _ in range(5)]
        assert session.ids(0) == prompt + drawn
    logits = model.logits([*prompt, *drawn])[0, page - 3 : -1]
    best = logits.max(1)
    assert np.all(logits[np.arange(5), drawn] >= best - 0.05)  # equal but for rounding


def test_a_full_cache_loses_nothing() -> None:
    model = fe.Model.load(FOLDER, device=fe.open_device("cpu"), cache_tokens=256)
    with model.session(3, 400) as session:
        page = model.operations.page
        session.prefill([[4] * (page - 1)])
        with pytest.raises(fe.DeviceError, match="cache: expected 2 free pages .* found 1 of 2"):
            session.prefill([[1] * (page + 1)])
        session.prefill([[9, 9]])
        session.step()  # the first sequence fills its page
        last = session.step()  # and its next token finds none
        with pytest.raises(fe.DeviceError, match="cache: expected 1 free pages .* found 0 of 2"):
            session.step()
        assert session.ids(0)[-1] == last[0]
        assert len(session.ids(0)) == page + 1
        session.release(1)
        assert session.step()[0] >= 0
        assert len(session.ids(0)) == page + 2


def test_a_cache_that_the_device_has_no_room_for() -> None:
    """Refused whole, before the first of its arrays."""
    model = fe.Model.load(FOLDER, device=fe.open_device("cpu"))
    memory = model.device.memory
    memory.limit = before = memory.in_use
    try:
        with pytest.raises(fe.DeviceError, match="of a cache for 8192 tokens: there is room for 0"):
            model.session(1, 64)
        assert memory.in_use == before
    finally:
        memory.limit = None
    with model.session(1, 64) as session:
        session.prefill(PROMPTS[:1])


def test_what_is_refused(model: fe.Model) -> None:
    with model.session(2, 8) as session:
        for prompts, message in (
            ([[]], r"prompts\[0\]: expected at least one token, found none"),
            ([[1], [320]], r"prompts\[1\]: expected ids from 0 to 319.* found 320"),
            ([[-1]], "found -1"),
            ([[1.5]], "array of integers, found float64"),
            ([[1] * 9], "expected at most 8 tokens, the session's length, found 9"),
            ([[1], [2], [3]], "prompts: expected at most 2, the session's free rows, found 3"),
        ):
            with pytest.raises(fe.AbiError, match=message):
                session.prefill(prompts)
        with pytest.raises(fe.AbiError, match="step: expected a sequence, found none"):
            session.step()
        session.prefill([[1] * 7])
        session.step()
        with pytest.raises(fe.AbiError, match="expected sequences shorter than 8"):
            session.step()
    with pytest.raises(fe.DeviceError, match="session: expected an open one"):
        session.step()
    for length in (0, 513):
        with pytest.raises(fe.AbiError, match="length"):
            model.session(1, length)
    with pytest.raises(fe.AbiError, match="max_position_embeddings"):
        model.generate([1] * 500, max_new_tokens=13)
    for name, value in (("temperature", -1), ("top_k", -1), ("top_p", 0), ("seed", 2**64)):
        with pytest.raises(fe.AbiError, match=name):
            model.generate([1], **{name: value})


def test_stop_sequences_and_seeds(model: fe.Model) -> None:
    likeliest = list(model.generate(PROMPTS[0], max_new_tokens=12))
    pair = next(i for i in range(1, 12) if likeliest[i - 1 : i + 1] != likeliest[i : i + 2])
    stopped = list(
        model.generate(PROMPTS[0], max_new_tokens=12, stop=[likeliest[pair - 1 : pair + 1]])
    )
    assert stopped == likeliest[: len(stopped)]
    assert stopped[-2:] == likeliest[pair - 1 : pair + 1]
    drawn = [
        list(model.generate(PROMPTS[0], max_new_tokens=12, temperature=1.5, seed=seed))
        for seed in (7, 7, 8)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    with model.session(3, 64, temperature=1.5, seed=5) as session:  # row b draws with seed + b
        session.prefill([PROMPTS[1], PROMPTS[1], PROMPTS[0]])
        batch = np.array([session.step() for _ in range(len(drawn[0]))])
    assert batch[: len(drawn[0]), 2].tolist() == drawn[0]


def test_sessions_come_and_go_in_threads(model: fe.Model) -> None:
    expected = [alone(model, prompt, 6) for prompt in PROMPTS]
    wrong: list[object] = []

    def work(number: int) -> None:
        try:
            for _ in range(4):
                if alone(model, PROMPTS[number], 6) != expected[number]:
                    wrong.append(number)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert model.shared.pool(1, 1).idle
    session = model.session(2, 64)
    session.prefill(PROMPTS[:2])
    del session  # never closed
    assert model.shared.pool(1, 1).idle


def test_sessions_that_come_and_go_leave_no_memory_behind(model: fe.Model) -> None:
    """10,000 tokens on a GPU; fewer on the CPU, whose steps take longer."""
    device, rows, steps = model.device, 4, 6
    rounds = 4 if device.name == "cpu" else 10_000 // (rows * steps)
    used = []
    for number in range(rounds):
        with model.session(rows, 48, temperature=number % 2, top_k=5) as session:
            session.prefill([[3 + number % 300 + row] * (1 + row) for row in range(rows - 1)])
            for step in range(steps):
                if step == steps // 2:
                    session.release(number % 3)
                    session.prefill([[7] * 5])
                session.step()
        del session
        if number % 2 and number >= rounds // 2 - 1:
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
            used.append((device.memory.in_use, pages * 4096))
    (device_before, host_before), (device_after, host_after) = used[0], used[-1]
    assert device_after == device_before
    assert host_after - host_before < 4 << 20
    assert model.shared.pool(1, 1).idle


# Python itself reports a Ctrl-C that falls into a finalizer or a callback of the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="signals by a clock are Unix's")
def test_ctrl_c_at_any_moment() -> None:
    """No page is lost, and the next text is right."""
    model = fe.Model.load(FOLDER, device=fe.open_device("cpu"))
    expected = alone(model, PROMPTS[0], 4)
    random, begun = np.random.default_rng(0), time.perf_counter()
    alone(model, PROMPTS[0], 4)  # its kernels are ready
    whole, interrupted = time.perf_counter() - begun, 0

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(40):
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-4, whole))
                with model.session(2, 64) as session:
                    session.prefill(PROMPTS[:2])
                    for _ in range(4):
                        session.step()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            gc.collect()  # a session whose end was broken off
            assert model.shared.pool(1, 1).idle
        assert alone(model, PROMPTS[0], 4) == expected
    finally:
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 0
