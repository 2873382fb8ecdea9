"""A page to look at a store: the extra ``[dashboard]`` (Starlette, Uvicorn, Jinja2).

`risk-store dashboard URL` serves it. It only reads, on connections of its own that cannot write; :mod:`reader` looks,
:mod:`snapshot` sums up, :mod:`page` and :mod:`charts` draw, :mod:`app` answers.
"""
