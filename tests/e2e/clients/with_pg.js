// node-postgres through the pooler. Takes the name of a case; libpq's environment variables tell where to.
'use strict';

const assert = require('node:assert/strict');
const { Client, Pool } = require('pg');

async function connected() {
  const client = new Client();
  await client.connect();
  return client;
}

const cases = {
  // A query with a name is prepared once by its client.
  async prepared() {
    const clients = await Promise.all(Array.from({ length: 8 }, connected));
    for (let turn = 0; turn < 20; turn += 1) {
      const query = { name: 'sum', text: 'SELECT $1::int + $2::int AS sum', values: [turn, 1] };
      const results = await Promise.all(clients.map((client) => client.query(query)));
      results.forEach((result) => assert.equal(result.rows[0].sum, turn + 1));
    }
    await Promise.all(clients.map((client) => client.end()));
  },

  // The same name for another statement in another client.
  async names() {
    const [one, two] = [await connected(), await connected()];
    for (let turn = 0; turn < 5; turn += 1) {
      assert.equal((await one.query({ name: 'mine', text: 'SELECT 1 AS n' })).rows[0].n, 1);
      assert.equal((await two.query({ name: 'mine', text: 'SELECT 2 AS n' })).rows[0].n, 2);
    }
    await one.end();
    await two.end();
  },

  // Transactions of a pool of clients over few servers.
  async transactions() {
    const pool = new Pool({ max: 10 });
    await pool.query('CREATE TABLE counter AS SELECT 0 AS n');
    const count = async () => {
      const client = await pool.connect();
      await client.query('BEGIN');
      await client.query('UPDATE counter SET n = n + $1', [1]);
      await client.query('COMMIT');
      client.release();
    };
    await Promise.all(Array.from({ length: 100 }, count));
    assert.equal((await pool.query('SELECT n FROM counter')).rows[0].n, 100);
    await pool.end();
  },

  // An error leaves the client as it was.
  async errors() {
    const client = await connected();
    for (let turn = 0; turn < 20; turn += 1) {
      await assert.rejects(client.query('SELECT 1 / $1::int AS n', [0]), { code: '22012' });
      assert.equal((await client.query('SELECT 1 / $1::int AS n', [1])).rows[0].n, 1);
    }
    await client.end();
  },

  // The admin console.
  async console() {
    const client = await connected();
    const result = await client.query('SHOW POOLS');
    assert.equal(result.fields[0].name, 'database');
    assert.ok(result.rows.some((row) => row.database === 'pgbouncer'));
    await client.end();
  },
};

cases[process.argv[2]]().catch((error) => {
  console.error(error);
  process.exit(1);
});
