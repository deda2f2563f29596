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

    @classmethod
    def more(cls, value):
        cls.total += value

    @classmethod
    def open(cls, value):
        cls.current = value

    @classmethod
    def of(cls, value):
        ledger = cls()
        ledger.value = value + cls.limit
        return ledger

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
