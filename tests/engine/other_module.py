"""Another module of the program, with state of its own."""

entries: list[object] = []
total = 0


class Ledger:
    limit = 5
    total = 0
    rows: list[object] = []  # noqa: RUF012 - as people write it

    @property
    def size(self):
        return len(self.rows)

    @staticmethod
    def note(value):
        Ledger.rows.append(value)


def put(value):
    entries.append(value)


def bump():
    global total  # noqa: PLW0603
    total += 1


def double(value):
    return 2 * value
