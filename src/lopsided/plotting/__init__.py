"""Figures as plain data, their colours, and SVG files."""
