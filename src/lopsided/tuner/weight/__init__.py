"""The weight under the adapters: who writes into it, and the way back to its bits."""
