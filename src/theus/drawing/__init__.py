"""A workflow as a picture: a tree of text, a Mermaid flowchart, an SVG. Loaded on first use.

It knows the nodes of ``theus.workflow`` by their ``kind``, not by import: it is called from there.
"""
