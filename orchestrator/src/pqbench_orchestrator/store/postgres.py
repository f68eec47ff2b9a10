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
from urllib.parse import urlsplit

from pqbench_wire.errors import InvalidInput, first_line

SCHEMES = ("postgresql", "postgres")
NEEDS_PSYCOPG = "a ledger in PostgreSQL needs psycopg: pip install 'pqbench-orchestrator[postgresql]'"
AWAY_SECONDS, PAUSE, CONNECT_SECONDS = 30.0, 1.0, 10  # for which a database that restarts is waited for
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
    """The schema of one run; errors raise InvalidInput of one line.

    With `read_only` a schema that is missing is InvalidInput; otherwise it is made, with the tables of `schema`.
    """

    version = 1  # all ledgers in databases have values with digests

    def __init__(self, address: Address, schema: str, advice: str, read_only: bool = False) -> None:
        self.place, self._advice = address, advice
        self._connection = self._connected()
        if read_only:
            if address.run not in _names(self._connection):
                self.close()
                raise InvalidInput(f"{address.url} has no run {address.run}")
            return
        tables = schema.replace("INTEGER PRIMARY KEY", "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY")
        with self._translated():
            self._connection.execute(_with_name("CREATE SCHEMA IF NOT EXISTS {}", address.run))
            self._connection.execute(tables)

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
            except InvalidInput:
                if not self._connection.closed or time.monotonic() > end:
                    raise
                time.sleep(PAUSE)
                with contextlib.suppress(InvalidInput):
                    self._connection = self._connected()

    def _connected(self) -> Any:
        connection = connect(self.place.url)
        with self._translated():
            connection.execute(_with_name("SET search_path TO {}", self.place.run))
        return connection

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except _psycopg().Error as error:
            raise InvalidInput(f"{self.place}: {first_line(error)}; {self._advice}") from error


def check(url: str) -> None:
    """Raise InvalidInput for a URL that is not one of a database, has a password, or cannot be reached."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or not parts.path.strip("/"):
        raise InvalidInput(f"--ledger {url}: write postgresql://USER@HOST/DATABASE")
    if parts.password is not None:
        raise InvalidInput("--ledger: give the password by PGPASSWORD or ~/.pgpass, not in the URL, which is recorded")
    connect(url).close()


def runs_of(url: str) -> list[str]:
    """The names of the runs whose ledgers are in a database. Raises InvalidInput."""
    with contextlib.closing(connect(url)) as connection:
        return _names(connection)


def create(address: Address) -> None:
    """Make the schema of a new run. Raises InvalidInput where there is one of this name, or the name is too long."""
    if len(address.run.encode()) > LONGEST_NAME:
        raise InvalidInput(f"{address.run}: a run's name may have {LONGEST_NAME} bytes in PostgreSQL: shorten `name`")
    _execute(address, "CREATE SCHEMA {}")


def drop(address: Address) -> None:
    """Remove a run's schema with all that is recorded in it."""
    _execute(address, "DROP SCHEMA IF EXISTS {} CASCADE")


def connect(url: str) -> Any:
    """A connection in which each statement is a transaction. Raises InvalidInput."""
    psycopg = _psycopg()
    try:
        return psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_SECONDS)
    except psycopg.Error as error:
        raise InvalidInput(f"{url} cannot be reached: {first_line(error)}") from error


def _execute(address: Address, statement: str) -> None:
    with contextlib.closing(connect(address.url)) as connection:
        try:
            connection.execute(_with_name(statement, address.run))
        except _psycopg().Error as error:
            raise InvalidInput(f"{address}: {first_line(error)}") from error


def _names(connection: Any) -> list[str]:
    found = connection.execute("SELECT schemaname FROM pg_tables WHERE tablename = 'steps' ORDER BY schemaname")
    return [str(name) for (name,) in found.fetchall()]


def _own(statement: str) -> str:
    """A statement of SQLite with PostgreSQL's placeholders."""
    return statement.replace("?", "%s")


def _with_name(statement: str, name: str) -> Any:
    sql = _psycopg().sql
    return sql.SQL(statement).format(sql.Identifier(name))


def _psycopg() -> Any:
    try:
        import psycopg
        import psycopg.sql
    except ImportError:
        raise InvalidInput(NEEDS_PSYCOPG) from None
    return psycopg
