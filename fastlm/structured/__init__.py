"""Texts by a grammar: JSON by a schema, a regular expression, or a grammar of Lark.

grammar.py reads what a caller asks for; llguidance, behind library.py, says which tokens may come next, and masking.py
tells the engine so while it computes. docs/structured.md is for users.
"""
