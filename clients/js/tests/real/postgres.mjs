// A PostgreSQL of the tests' own, and what is written to it beside the server.

import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { accessSync, readdirSync, readFileSync } from "node:fs";
import { chown, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import readline from "node:readline";
import { promisify } from "node:util";
import { freePort } from "../../../../tests/browser/server.mjs";

const SETTINGS = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "full_page_writes=off", "shared_buffers=16MB"];

export class Postgres {
  #folder;
  #port;
  #process;

  static async start() {
    const postgres = new Postgres();
    postgres.#folder = await mkdtemp(path.join(tmpdir(), "notify-client-postgres-"));
    const account = notRoot();
    if (account.uid !== undefined) await chown(postgres.#folder, account.uid, account.gid);
    const options = { ...account, cwd: postgres.#folder };
    await promisify(execFile)(program("initdb"), ["--auth=trust", "--username=tester", "--encoding=UTF8", "--no-locale", "--no-sync", "--pgdata=data"], options);
    postgres.#port = await freePort();
    const flags = SETTINGS.flatMap((setting) => ["-c", setting]);
    postgres.#process = spawn(program("postgres"), ["-D", "data", "-p", String(postgres.#port), ...flags], options);
    await accepting(postgres.#process.stderr);
    postgres.#process.stderr.resume();
    return postgres;
  }

  get url() {
    return `postgres://tester@127.0.0.1:${this.#port}/postgres`;
  }

  /** Runs SQL; returns the rows, of one column. */
  async query(sql) {
    const running = promisify(execFile)(program("psql"), ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-", this.url]);
    running.child.stdin.end(sql);
    const { stdout } = await running;
    return stdout.split("\n").filter(Boolean);
  }

  async remove() {
    const exited = once(this.#process, "exit");
    this.#process.kill("SIGINT");
    await exited;
    await rm(this.#folder, { recursive: true, force: true });
  }
}

/** A value of a row; `undefined` is NULL. */
export function literal(value) {
  return value === undefined ? "NULL" : `'${String(value).replaceAll("'", "''")}'`;
}

/** The newest installed version, else whatever PATH has. */
function program(name) {
  const root = "/usr/lib/postgresql";
  try {
    const newest = readdirSync(root).map(Number).filter(Boolean).sort((a, b) => b - a)[0];
    const file = path.join(root, String(newest), "bin", name);
    accessSync(file);
    return file;
  } catch {
    return name;
  }
}

/** PostgreSQL refuses to run as root. */
function notRoot() {
  if (process.getuid() !== 0) return {};
  const accounts = readFileSync("/etc/passwd", "utf8").split("\n").map((line) => line.split(":"));
  const [, , uid, gid] = accounts.find(([name]) => name === "postgres") ?? accounts.find(([name]) => name === "nobody");
  return { uid: Number(uid), gid: Number(gid) };
}

async function accepting(output) {
  const said = [];
  for await (const line of readline.createInterface({ input: output })) {
    said.push(line);
    if (line.includes("ready to accept connections")) return;
  }
  throw new Error(`PostgreSQL has ended:\n${said.join("\n")}`);
}
