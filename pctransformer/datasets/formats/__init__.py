"""File formats, one module each, on numpy alone. `pctransformer.datasets.files` is their face.

Each checks what a header promises against the bytes that are there before it allocates anything, so a broken or hostile
file costs an error message and no more memory than a small multiple of its own size.
"""
