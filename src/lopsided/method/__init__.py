"""What a method is made of: which factor trains, how the other one is drawn, and when a new link starts."""

from lopsided.method.method import METHODS, Chain, Method, Side, method_from_parts, method_named, register

__all__ = ["METHODS", "Chain", "Method", "Side", "method_from_parts", "method_named", "register"]
