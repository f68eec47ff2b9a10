"""A PostgreSQL database with the ledgers of many runs, each in a schema of its own that has the run's name.

It is used like an SQLite file (`database.Database`), in the same statements. psycopg is an extra of the distribution.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pqbench_wire.errors import InvalidInput, first_line

SCHEMES = ("postgresql://", "postgres://")
NEEDS_PSYCOPG = "a ledger in PostgreSQL needs psycopg: pip install 'pqbench-orchestrator[postgresql]'"
AWAY_SECONDS, PAUSE = 30.0, 1.0  # for which a database that restarts is waited for
# A machine that vanishes ends a connection as soon as one that restarts; seconds, the last in milliseconds.
NETWORK = {"connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
           "tcp_user_timeout": 30_000}  # fmt: skip
LONGEST_NAME = 63  # bytes, of a schema

Result = TypeVar("Result")


@dataclass(frozen=True)
class Address:
    """A run's ledger in a database."""

    url: str
    run: str

    def __str__(self) -> str:
        return f"{self.url}, run {self.run}"


class PostgresDatabase:
    """The schema of one run, which `create` made; errors raise InvalidInput of one line.

    Unless it is `read_only`, the tables of `schema` are made where they are missing.
    """

    version = 1  # all ledgers in databases have values with digests

    def __init__(self, address: Address, schema: str, advice: str, read_only: bool = False) -> None:
        self.place, self._advice = address, advice
        self._connection = self._connected()
        with contextlib.ExitStack() as stack:
            stack.callback(self.close)
            with self._translated():
                if address.run not in _names(self._connection):
                    raise InvalidInput(f"{address.url} has no run {address.run}")
                if not read_only:
                    self._connection.execute(
                        schema.replace("INTEGER PRIMARY KEY", "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY")
                    )
            stack.pop_all()

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        return self._repeated(lambda connection: connection.execute(_own(statement), values).fetchall())

    def write(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Write rows in one transaction; they are stored when this returns.

        Where the connection is lost at the end of it, they may be written twice: the newest row of a key counts.
        """
        kept = list(rows)

        def insert(connection: Any) -> None:
            with connection.transaction(), connection.cursor() as cursor:
                cursor.executemany(_own(statement), kept)

        self._repeated(insert)

    def read_json(self, text: str) -> Any:
        """Parse a JSON text that came from the database; text that is not JSON means that it is damaged."""
        try:
            return json.loads(text)
        except ValueError as error:
            raise InvalidInput(f"{self.place} is damaged: {error}; {self._advice}") from error

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _repeated(self, work: Callable[[Any], Result]) -> Result:
        """Do something with the connection, again with a new one while the database is away."""
        end = time.monotonic() + AWAY_SECONDS
        while True:
            try:
                with self._translated():
                    return work(self._connection)
            except InvalidInput as error:
                if not self._connection.closed:
                    raise
                self._reconnect(end, error)

    def _reconnect(self, end: float, error: InvalidInput) -> None:
        """Connect again until a moment of the monotonic clock; after it, raise the error that ended the connection."""
        while True:
            time.sleep(PAUSE)
            try:
                self._connection = self._connected()
                return
            except InvalidInput:
                if time.monotonic() > end:
                    raise error from None

    def _connected(self) -> Any:
        connection = connect(self.place.url)
        with contextlib.ExitStack() as stack:
            stack.callback(connection.close)
            with self._translated():
                connection.execute(_with_name("SET search_path TO {}", self.place.run))
            stack.pop_all()
        return connection

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except _psycopg().Error as error:
            raise InvalidInput(f"{self.place}: {first_line(error)}; {self._advice}") from error


def check(url: str) -> None:
    """Raise InvalidInput for what is no address of a database, has a password in it, or cannot be reached."""
    try:
        parts = _psycopg().conninfo.conninfo_to_dict(url)
    except _psycopg().Error:  # its text is not repeated, as it may have a password
        raise InvalidInput("--ledger: no address of a database: write postgresql://USER@HOST/DATABASE") from None
    if any("password" in name for name in parts):
        raise InvalidInput("--ledger: give the password by PGPASSWORD or ~/.pgpass, not in the URL, which is recorded")
    if not url.startswith(SCHEMES) or not parts.get("dbname"):
        raise InvalidInput(f"--ledger {url}: write postgresql://USER@HOST/DATABASE")
    connect(url).close()


def runs_of(url: str) -> list[str]:
    """The names of the runs whose ledgers are in a database. Raises InvalidInput."""
    with _session(url) as connection:
        return _names(connection)


def beginnings(url: str, runs: Iterable[str]) -> dict[str, float]:
    """When the first step of each of some runs began, in seconds since the epoch; 0 where none did."""
    found = {}
    with _session(url) as connection:
        for run in runs:
            query = _with_name("SELECT started FROM {}.steps ORDER BY id LIMIT 1", run)
            found[run] = next((float(started) for (started,) in connection.execute(query).fetchall()), 0.0)
    return found


def create(address: Address) -> None:
    """Make the schema of a new run. Raises InvalidInput where there is one of this name, or the name is too long."""
    if len(address.run.encode()) > LONGEST_NAME:
        raise InvalidInput(f"{address.run}: a run's name may have {LONGEST_NAME} bytes in PostgreSQL: shorten `name`")
    with _session(address.url) as connection:
        connection.execute(_with_name("CREATE SCHEMA {}", address.run))
        connection.execute(_with_name("COMMENT ON SCHEMA {} IS 'a run of pqbench'", address.run))


def drop(address: Address) -> None:
    """Remove a run's schema with all that is recorded in it."""
    with _session(address.url) as connection:
        connection.execute(_with_name("DROP SCHEMA IF EXISTS {} CASCADE", address.run))


def connect(url: str) -> Any:
    """A connection in which each statement is a transaction. Raises InvalidInput."""
    psycopg = _psycopg()
    try:
        return psycopg.connect(url, autocommit=True, **NETWORK)
    except psycopg.Error as error:
        raise InvalidInput(f"{url} cannot be reached: {first_line(error)}") from error


@contextlib.contextmanager
def _session(url: str) -> Iterator[Any]:
    """A connection for some statements. Raises InvalidInput."""
    with contextlib.closing(connect(url)) as connection:
        try:
            yield connection
        except _psycopg().Error as error:
            raise InvalidInput(f"{url}: {first_line(error)}") from error


def _names(connection: Any) -> list[str]:
    query = "SELECT nspname FROM pg_namespace WHERE obj_description(oid, 'pg_namespace') = 'a run of pqbench'"
    return sorted(str(name) for (name,) in connection.execute(query).fetchall())


def _own(statement: str) -> str:
    """A statement of SQLite with PostgreSQL's placeholders."""
    return statement.replace("?", "%s")


def _with_name(statement: str, name: str) -> Any:
    sql = _psycopg().sql
    return sql.SQL(statement).format(sql.Identifier(name))


def _psycopg() -> Any:
    try:
        import psycopg
        import psycopg.conninfo
        import psycopg.sql
    except ImportError:
        raise InvalidInput(NEEDS_PSYCOPG) from None
    return psycopg
