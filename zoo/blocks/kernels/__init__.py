"""Faster spellings of what plain torch computes. None is needed to install or to run; each falls back by itself."""
