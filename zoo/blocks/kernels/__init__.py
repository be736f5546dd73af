"""Faster spellings of what plain torch computes. None is needed to install or to run; each falls back by itself.

A block calls a kernel as if it were the formula. Whether it holds - for this device, this precision, before whoever
records or transforms the program - is asked here alone, and beside each stands ``plain_…``, its twin of the same
signature in torch's own operators. `guard` knows who is watching, `private` what torch has no public name for.
"""
