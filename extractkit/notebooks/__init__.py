"""Notebooks: values as HTML, charts and widgets, for Jupyter, marimo and VS Code.

Values reach this room by the methods of `extractkit.core.notebook`.
"""
