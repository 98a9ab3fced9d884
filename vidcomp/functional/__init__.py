"""Tensor math only: no files, no logging, no settings, no unseeded random numbers."""
