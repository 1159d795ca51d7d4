"""asyncpg through the pooler. Takes the name of a case; libpq's environment variables tell where to."""

import asyncio
import sys

import asyncpg


async def prepared():
    """asyncpg prepares every query by a name of its own and keeps it."""
    connections = [await asyncpg.connect() for _ in range(8)]
    for turn in range(20):
        values = await asyncio.gather(*(c.fetchval("SELECT $1::int + 1", turn) for c in connections))
        assert values == [turn + 1] * 8, values
    statement = await connections[0].prepare("SELECT $1::text || 'x'")
    for turn in range(20):
        assert await statement.fetchval(str(turn)) == f"{turn}x"


async def transactions():
    """Transactions of many tasks over a pool of connections over few servers."""
    pool = await asyncpg.create_pool(min_size=10, max_size=10)
    await pool.execute("CREATE TABLE counter AS SELECT 0 AS n")

    async def count():
        for _ in range(10):
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute("UPDATE counter SET n = n + $1", 1)

    await asyncio.gather(*(count() for _ in range(10)))
    assert await pool.fetchval("SELECT n FROM counter") == 100
    await pool.close()


async def timeouts():
    """A time-out cancels the query; the connection goes on."""
    busy, other = await asyncpg.connect(), await asyncpg.connect()
    for _ in range(5):
        try:
            await busy.fetchval("SELECT pg_sleep(600)", timeout=0.2)
            raise AssertionError("no time-out")
        except asyncio.TimeoutError:
            pass
        assert await busy.fetchval("SELECT 1") == 1
        assert await other.fetchval("SELECT 2") == 2


async def errors():
    """Errors of a prepared query leave the connection as it was."""
    connection = await asyncpg.connect()
    for _ in range(20):
        try:
            await connection.fetchval("SELECT 1 / $1::int", 0)
            raise AssertionError("no error")
        except asyncpg.DivisionByZeroError:
            pass
        assert await connection.fetchval("SELECT 1 / $1::int", 1) == 1


async def cursor():
    """A portal that is fetched from in pieces."""
    connection = await asyncpg.connect()
    async with connection.transaction():
        total = 0
        async for row in connection.cursor("SELECT generate_series(1, 1000)", prefetch=100):
            total += row[0]
    assert total == 500500, total


async def copy():
    """COPY in and out."""
    connection = await asyncpg.connect()
    await connection.execute("CREATE TABLE heap (n int, word text)")
    rows = [(n, f"word {n}") for n in range(10000)]
    assert await connection.copy_records_to_table("heap", records=rows) == "COPY 10000"
    size = 0

    async def count(data):
        nonlocal size
        size += len(data)

    await connection.copy_from_query("SELECT * FROM heap", output=count)
    assert size > 100000, size


async def listen():
    """Notifications, in session mode."""
    listener, notifier = await asyncpg.connect(), await asyncpg.connect()
    heard = asyncio.Queue()
    await listener.add_listener("news", lambda *event: heard.put_nowait(event[3]))
    await notifier.execute("SELECT pg_notify('news', 'hello')")
    assert await asyncio.wait_for(heard.get(), 20) == "hello"


async def console():
    """The admin console. pgbouncer's has no extended protocol, which fetch() uses: execute() does without."""
    connection = await asyncpg.connect()
    assert await connection.execute("SHOW VERSION") == "SHOW"
    if sys.argv[2:] == ["extended"]:
        rows = await connection.fetch("SHOW POOLS")
        assert any(row["database"] == "pgbouncer" for row in rows), rows


asyncio.run(globals()[sys.argv[1]]())
