"""Federated fine-tuning: many clients train one factor next to one shared sketch, and averages of it are exact."""
