"""The fixtures of `train_helpers`."""

from train_helpers import bert, one_thread, pairs, words

__all__ = ["bert", "one_thread", "pairs", "words"]
