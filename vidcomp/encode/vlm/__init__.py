"""The encoders that video language models bring along: families, pixels, tokens on their grid."""
