"""Redis as the log of a store: ``redis://host:6379/0?name=shop``.

::

    {name}:head           the version: number of the last entry
    {name}:log            a stream; the id of an entry is its version
    {name}:record         a hash, kind and key -> value
    {name}:index          the names of the records, in order
    {name}:kept           versions of the snapshots that are complete
    {name}:state:VERSION  a snapshot, in parts
    {name}:news           a channel: who has appended something

All in one hash slot. A group is one call of a script, which checks first and writes last, because a script that fails in
the middle is not undone. Redis keeps what it acknowledged only with ``appendonly yes`` and ``appendfsync always``.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import redis

from theus.errors import CommitUnknown, StoreError
from theus.protocols import Record, Version
from theus.stores.driver import Entry, Loaded, packed_records, records_of
from theus.stores.server import (
    LOOK,
    PART,
    WAIT,
    Appended,
    Batch,
    Down,
    Lost,
    ServerDriver,
    identifier,
    options,
)

log = logging.getLogger("theus")

_pack = msgspec.msgpack.Encoder().encode
_unpack_entry = msgspec.msgpack.Decoder(tuple[str, float, bytes, bytes | None]).decode
#: said by a server that did not do what it was asked, and may do it later
_DOWN = (
    redis.exceptions.BusyLoadingError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.MasterDownError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
)
_PAGE = 1000  #: entries that are read at once

#: KEYS: head, log, record, index, news. ARGV: known, group, again, token, asks and writes (msgpack), how many records are
#: expected and changed, how many of those who listen are we; the records as name and value ("+..." or "-" for none); the entries
_APPEND = """
local head = redis.call('GET', KEYS[1])
if not head then return {-1} end
local heard = redis.call('PUBSUB', 'NUMSUB', KEYS[5])[2]
head = tonumber(head)
local known = tonumber(ARGV[1])
if head < known then return {-2, head} end
local since = {}
if head > known then
  since = redis.call('XRANGE', KEYS[2], '(' .. ARGV[1] .. '-0', '+')
  local first = since[1] and tonumber(string.match(since[1][1], '%d+'))
  if first ~= known + 1 then return {ARGV[3] == 'again' and -3 or 0, since} end
  for _, entry in ipairs(since) do
    if entry[2][2] == ARGV[2] then return {tonumber(string.match(entry[1], '%d+')), since} end
  end
  local asks = {}
  for _, key in ipairs(cmsgpack.unpack(ARGV[5])) do asks[key] = true end
  for _, entry in ipairs(since) do
    if entry[2][6] then
      for _, key in ipairs(cmsgpack.unpack(entry[2][6])) do
        if asks[key] then return {0, since} end
      end
    end
  end
end
local at = 10
for _ = 1, ARGV[7] do
  local value = redis.call('HGET', KEYS[3], ARGV[at])
  if (value and '+' .. value or '-') ~= ARGV[at + 1] then return {0, since} end
  at = at + 2
end
local records = at
at = at + 2 * ARGV[8]
local first = head + 1
for i = at, #ARGV do
  head = head + 1
  local id = string.format('%.0f-0', head)
  if head == first then
    redis.call('XADD', KEYS[2], id, 'group', ARGV[2], 'entry', ARGV[i], 'writes', ARGV[6])
  else
    redis.call('XADD', KEYS[2], id, 'group', ARGV[2], 'entry', ARGV[i])
  end
end
for i = records, at - 1, 2 do
  local value = ARGV[i + 1]
  if value == '-' then
    redis.call('HDEL', KEYS[3], ARGV[i])
    redis.call('ZREM', KEYS[4], ARGV[i])
  else
    redis.call('HSET', KEYS[3], ARGV[i], string.sub(value, 2))
    redis.call('ZADD', KEYS[4], 0, ARGV[i])
  end
end
redis.call('SET', KEYS[1], string.format('%.0f', head))
if heard > tonumber(ARGV[9]) then redis.call('PUBLISH', KEYS[5], ARGV[4]) end
return {first, since}
"""
_APPEND_HASH = hashlib.sha1(_APPEND.encode(), usedforsecurity=False).hexdigest()

#: KEYS: kept, head, log. ARGV: version, floor, where snapshots are
_KEEP = """
local head = redis.call('GET', KEYS[2])
local newest = redis.call('ZREVRANGE', KEYS[1], 0, 0)[1]
if newest and tonumber(newest) >= tonumber(ARGV[1]) then
  redis.call('UNLINK', KEYS[4])
  return 0
end
redis.call('RENAME', KEYS[4], ARGV[3] .. ARGV[1])
redis.call('PERSIST', ARGV[3] .. ARGV[1])
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[1])
if not head then
  redis.call('SET', KEYS[2], ARGV[1])
  return 1
end
for _, old in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[2])) do
  redis.call('UNLINK', ARGV[3] .. old)
  redis.call('ZREM', KEYS[1], old)
end
local first = math.min(tonumber(ARGV[2]) + 1, tonumber(head))
redis.call('XTRIM', KEYS[3], 'MINID', string.format('%.0f-0', first))
return 1
"""


class RedisDriver(ServerDriver):
    """The log in one Redis server. In the URL: ``name`` of the store, ``wait`` seconds for a server that is away."""

    def __init__(self, url: str) -> None:
        rest, ours = options(url, {"name": identifier, "wait": float})
        super().__init__(rest, ours.get("wait", WAIT))
        self._client = self._make_client()
        self._listener = self._make_client()  # the follower's own
        self._appending: Any = None  #: a connection
        self._news: Any = None
        self._hears = False  #: the server has said that we listen
        self._keep_script = self._client.register_script(_KEEP)
        slot = f"{{{ours.get('name', 'theus')}}}"
        self._head, self._log, self._record, self._index, self._channel, self._kept, self._state = (
            f"{slot}:{part}" for part in ("head", "log", "record", "index", "news", "kept", "state:")
        )

    # --- the Driver protocol ---

    def load(self, initial: Callable[[], bytes]) -> Loaded:
        if not self._ask(self._client.exists, self._head):
            self._warn_of_forgetting()
            self._upload(0, initial())
            self._keep(0, 0)
        while True:
            oldest, newest = self._ask(self._snapshots)
            parts = self._ask(self._client.lrange, f"{self._state}{oldest}", 0, -1)
            entries = self.tail(oldest)
            if parts and (not entries or entries[0].version == oldest + 1):
                return Loaded(oldest, b"".join(parts), entries, newest)
            # another engine took it away while we read

    def _append(self, known: Version, batch: Batch, again: bool) -> Appended:
        head = [known, batch.group, "again" if again else "", self.token, _pack(batch.asks), _pack(batch.writes)]
        counts = [len(batch.expected), len(batch.records), int(self._hears)]
        records = [part for each in (batch.expected, batch.records) for one in each.items() for part in _named(*one)]
        entries = [_pack((one.author, one.at, one.ops, packed_records(one))) for one in batch.entries]
        first, *more = self._run_append([*head, *counts, *records, *entries])
        if first >= 0:
            return first, [_entry(*one) for one in more[0]]
        if first == -3:
            raise CommitUnknown(
                f"{self.shown} does not keep the log from when this group was sent; it may or may not be made"
            )
        raise StoreError(
            f"{self.shown} has lost commits: version {known} was acknowledged,"
            f" it is at {more[0] if more else 'none'}. Make a new engine to go on from there; to lose nothing, set"
            " appendonly yes and appendfsync always"
        )

    def tail(self, after: Version) -> Sequence[Entry]:
        entries: list[Entry] = []
        while True:
            page = self._ask(self._client.xrange, self._log, f"({after}-0", "+", _PAGE)
            entries += [_entry(number, [part for pair in fields.items() for part in pair]) for number, fields in page]
            if len(page) < _PAGE:
                return entries
            after = entries[-1].version

    def _listen(self) -> None:
        if self._news is None:
            self._news = self._listener.pubsub()
            self._try(self._news.subscribe, self._channel)
            return  # something may have come before
        message = self._try(self._news.get_message, timeout=LOOK)
        self._hears = True
        while message is not None and message["data"] == self.token.encode():
            message = self._try(self._news.get_message, timeout=LOOK)

    def _hang_up(self) -> None:
        self._hears = False
        if self._news is not None:
            self._news.close()
            self._news = None
        self._listener.close()

    def record(self, kind: str, key: str) -> bytes | None:
        value: bytes | None = self._ask(self._client.hget, self._record, _name(kind, key))
        return value

    def records(self, kind: str, prefix: str) -> list[Record]:
        first = _name(kind, prefix)

        def read() -> list[Record]:
            names = self._client.zrangebylex(self._index, b"[" + first, b"(" + first + b"\xff")
            values = self._client.hmget(self._record, names) if names else []
            pairs = zip(names, values, strict=True)
            return [Record(kind, name.decode().partition("\0")[2], value) for name, value in pairs if value is not None]

        found: list[Record] = self._ask(read)
        return found

    def kept(self) -> Version:
        return int(self._ask(self._snapshots)[1])

    def keep(self, version: Version, state: bytes, floor: Version) -> None:
        self._upload(version, state)
        self._keep(version, floor)

    def close(self) -> None:
        self.closing.set()
        try:
            self._try(self._client.publish, self._channel, "closing")  # wakes our own follower
        except (Down, Lost):
            pass  # it looks by itself, each second
        if self._appending is not None:
            self._appending.disconnect()
        self._client.connection_pool.disconnect(inuse_connections=False)  # the follower may be reading

    # --- talking ---

    def _make_client(self) -> Any:
        # It must not send anything again by itself: only we know what may be.
        never = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
        seconds = max(1.0, self._wait / 2)
        return redis.Redis.from_url(self.url, retry=never, socket_timeout=seconds, socket_connect_timeout=seconds)

    def _ask(self, command: Callable[..., Any], *arguments: Any) -> Any:
        return self.ask(lambda: self._try(command, *arguments))

    def _try(self, command: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Ask once; errors of the client become ours."""
        try:
            return command(*arguments, **named)
        except _DOWN as error:
            raise Down(str(error)) from error
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError) as error:
            raise Lost(str(error)) from error
        except redis.exceptions.RedisError as error:
            raise StoreError(f"{self.shown} failed: {error}") from error

    def _run_append(self, arguments: Sequence[Any]) -> Any:
        """One call of the script. First the connection, so that what fails after that was sent."""
        try:
            connection = self._connected()
        except (redis.exceptions.RedisError, OSError) as error:
            raise Down(str(error)) from error
        keys = [self._head, self._log, self._record, self._index, self._channel]

        def ask(*script: str) -> Any:
            connection.send_packed_command([_command([*script, len(keys), *keys, *arguments])])
            return connection.read_response()

        def run() -> Any:
            try:
                return ask("EVALSHA", _APPEND_HASH)
            except redis.exceptions.NoScriptError:
                return ask("EVAL", _APPEND)

        return self._try(run)

    def _connected(self) -> Any:
        """The connection of who appends. The client's own pool looks after each command, which costs as much as our script."""
        if self._appending is None:
            self._appending = self._client.connection_pool.get_connection()
            return self._appending
        connection = self._appending
        connection.connect()
        try:
            is_cut = connection.can_read()  # there is nothing to read but its end
        except (redis.exceptions.RedisError, OSError):
            is_cut = True
        if is_cut:
            connection.disconnect()
            connection.connect()
        return connection

    def _snapshots(self) -> tuple[Version, Version]:
        """The oldest and the newest."""
        versions = self._client.zrange(self._kept, 0, -1)
        if not versions:
            raise StoreError(f"{self.shown} has lost its snapshots; restore the server's data, or use another name=")
        return int(versions[0]), int(versions[-1])

    def _upload(self, version: Version, state: bytes) -> None:
        """Parts of a snapshot, under a key of our own until it is complete; they go by themselves if it never is."""
        key = self._own_key(version)
        if self._ask(self._client.zscore, self._kept, str(version)) is not None:
            return

        def send() -> None:
            self._client.unlink(key)
            for begin in range(0, len(state), PART):
                self._client.rpush(key, state[begin : begin + PART])
                self._client.expire(key, 3600)

        self._ask(send)

    def _own_key(self, version: Version) -> str:
        return f"{self._state}{version}:{self.token}"

    def _keep(self, version: Version, floor: Version) -> None:
        keys = [self._kept, self._head, self._log, self._own_key(version)]
        self._ask(self._keep_script, keys, [version, floor, self._state])

    def _warn_of_forgetting(self) -> None:
        try:
            said = self._client.config_get("append*")
        except (redis.exceptions.RedisError, OSError):
            return  # not everybody may ask
        if said.get("appendonly") != "yes" or said.get("appendfsync") != "always":
            log.warning(
                "%s forgets commits when it ends: it has appendonly %s and appendfsync %s, not yes and always",
                self.shown,
                said.get("appendonly"),
                said.get("appendfsync"),
            )


def _name(kind: str, key: str) -> bytes:
    return f"{kind}\0{key}".encode()


def _command(parts: Sequence[Any]) -> bytes:
    """As it goes over the wire; the client's own way takes several times as long."""
    packed = [b"*%d\r\n" % len(parts)]
    for part in parts:
        data = part if type(part) is bytes else str(part).encode()
        packed.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(packed)


def _named(place: tuple[str, str], value: bytes | None) -> tuple[bytes, bytes]:
    """A record for the script."""
    return _name(*place), b"-" if value is None else b"+" + value


def _entry(number: bytes, fields: Sequence[bytes]) -> Entry:
    author, at, ops, records = _unpack_entry(fields[3])
    return Entry(int(number.partition(b"-")[0]), author, at, ops, records_of(records), fields[1].decode())
