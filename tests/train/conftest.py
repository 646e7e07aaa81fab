"""The fixtures of `train_helpers`."""

from train_helpers import bert, llama, one_thread, pairs, phrases, run_once, scores, t5, words

__all__ = ["bert", "llama", "one_thread", "pairs", "phrases", "run_once", "scores", "t5", "words"]
