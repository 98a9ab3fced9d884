"""A storage that does something else between any two of its steps."""

from vidcomp.store.local import LocalStorage

STEPS = ("names", "read", "open", "size", "create", "replace", "adopt", "remove")


class SteppedStorage(LocalStorage):
    """Calls ``between`` once, before the step of that number; ``steps`` counts them."""

    def __init__(self, root, step=-1, between=None):
        super().__init__(root)
        self.steps, self._step, self._between = 0, step, between

    def _count(self):
        self.steps += 1
        if self.steps - 1 == self._step:
            self._between()


def _counted(name):
    def call(self, *args):
        self._count()
        return getattr(LocalStorage, name)(self, *args)

    return call


for _name in STEPS:
    setattr(SteppedStorage, _name, _counted(_name))
