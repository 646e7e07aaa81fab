"""The fixtures of `train_helpers`."""

from train_helpers import bert, one_thread, words

__all__ = ["bert", "one_thread", "words"]
