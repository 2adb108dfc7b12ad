"""Parametric shapes, one function per class: random choices in, named parts made of triangles out."""
