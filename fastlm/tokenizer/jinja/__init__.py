"""Jinja templates of model folders, which nobody vouches for: parsed by jinja2, evaluated here, on a budget.

A template can do what this folder spells out and nothing else: an operator, method, filter or test that stands in no
table here does not exist. Each pays for what it makes and reads before it does so, and a budget that is spent ends the
rendering (meter.py). So neither memory nor time run away, whatever a template says, and the same template ends at the
same place on every machine.
"""
