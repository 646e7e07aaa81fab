"""Merges that lead back to the original bits, for stock PEFT's LoRA layers and for our own."""
