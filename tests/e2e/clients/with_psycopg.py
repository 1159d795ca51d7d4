"""psycopg 3 (libpq) through the pooler. Takes the name of a case; libpq's environment variables tell where to."""

import sys
import threading

import psycopg
from psycopg import pq


def connect(**more):
    return psycopg.connect("", autocommit=True, **more)


def prepared():
    """Each connection prepares its statements on whatever server it gets."""
    connections = [connect(prepare_threshold=0) for _ in range(8)]
    for turn in range(20):
        for number, connection in enumerate(connections):
            query = f"SELECT %s::int + {number % 3}"
            row = connection.execute(query, [turn]).fetchone()
            assert row == (turn + number % 3,), row
    for connection in connections:
        with connection.transaction():
            for value in range(5):
                assert connection.execute("SELECT %s::text", [str(value)]).fetchone() == (str(value),)


def many_statements():
    """More statements than a server may keep (the test allows few)."""
    connection = connect(prepare_threshold=0)
    connection.prepared_max = 1000
    for _ in range(3):
        for number in range(50):
            assert connection.execute(f"SELECT %s::int * {number}", [2]).fetchone() == (2 * number,)


def pipeline():
    """Many queries on their way at once."""
    connection = connect()
    with connection.pipeline():
        cursors = [connection.execute("SELECT %s::int", [n]) for n in range(500)]
    assert [c.fetchone()[0] for c in cursors] == list(range(500))


def pipeline_errors():
    """An error ends its pipeline; the next one is as good as new."""
    connection = connect(prepare_threshold=None)
    for turn in range(30):
        try:
            with connection.pipeline():
                connection.execute("SELECT 1")
                connection.execute("SELECT nonsense")
                connection.execute("SELECT 2")
            raise AssertionError("no error")
        except psycopg.errors.UndefinedColumn:
            pass
        with connection.pipeline():
            assert connection.execute("SELECT %s::int", [turn]).fetchone() == (turn,)


def cancel():
    """PQcancel ends the connection's own query; others go on."""
    busy, other = connect(), connect()
    errors = []

    def sleep():
        try:
            busy.execute("SELECT pg_sleep(600)")
        except psycopg.errors.QueryCanceled as error:
            errors.append(error)

    thread = threading.Thread(target=sleep)
    thread.start()
    look = "SELECT count(*) FROM pg_stat_activity WHERE query ~ 'pg_sleep.600' AND pid <> pg_backend_pid()"
    while other.execute(look).fetchone()[0] == 0:
        pass
    busy.cancel()
    thread.join(20)
    assert len(errors) == 1, errors
    assert busy.execute("SELECT 1").fetchone() == (1,)


def copy():
    """COPY in and out, in blocks and by rows."""
    connection = connect()
    with connection.transaction():
        connection.execute("CREATE TEMP TABLE heap (n int, word text) ON COMMIT DROP")
        with connection.cursor().copy("COPY heap FROM STDIN") as writer:
            for number in range(10000):
                writer.write_row((number, f"word {number}"))
        with connection.cursor().copy("COPY heap TO STDOUT (FORMAT BINARY)") as reader:
            size = sum(len(block) for block in reader)
        assert size > 200000, size
        assert connection.execute("SELECT sum(n) FROM heap").fetchone() == (49995000,)


def binary():
    """Parameters and results in binary."""
    connection = connect(prepare_threshold=0)
    for value in (0, -1, 2**31 - 1):
        row = connection.execute("SELECT %b::int4, %b::bytea", [value, b"\0\xff"], binary=True).fetchone()
        assert row == (value, b"\0\xff"), row


def server_cursor():
    """A portal that is fetched from in pieces, which needs its transaction."""
    connection = connect()
    with connection.transaction():
        with connection.cursor(name="pieces") as cursor:
            cursor.itersize = 100
            cursor.execute("SELECT generate_series(1, 1000)")
            assert sum(row[0] for row in cursor) == 500500


def two_phase():
    """libpq's own view of the connection's state."""
    connection = connect()
    assert connection.info.transaction_status == pq.TransactionStatus.IDLE
    assert connection.info.parameter_status("server_encoding") == "UTF8"
    assert connection.info.server_version >= 120000


def console():
    """The admin console by simple queries."""
    cursor = psycopg.ClientCursor(connect())
    cursor.execute("SHOW POOLS")
    names = [column.name for column in cursor.description]
    assert names[:4] == ["database", "user", "cl_active", "cl_waiting"], names
    rows = cursor.fetchall()
    assert any(row[0] == "pgbouncer" for row in rows), rows


globals()[sys.argv[1]]()
