"""``vidcomp serve``: an OpenAI-compatible server that answers questions about videos.

Nothing here is imported by other commands; FastAPI is needed from ``app`` on.
"""
