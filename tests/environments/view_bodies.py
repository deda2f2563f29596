"""What looks at views in workers: a module that loads in sub-interpreters."""


def look(view):
    return type(view.obj).__name__, view.readonly, view.format, view.shape, bytes(view[:4])


def give(view):
    return view
