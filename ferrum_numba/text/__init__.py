"""Text of a model: tokens, and the chats that templates write."""

from .tokenizer import TextStream, Tokenizer

__all__ = ["TextStream", "Tokenizer"]
