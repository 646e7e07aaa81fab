"""The loss of a model around its weights: over batches, its gradient, its Hessian's top eigenvalue."""
