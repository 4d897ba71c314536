// The package `tako.sh`: what an app may import. It works the same under Tako and without it, and with any number of
// copies in one process.

import * as fs from "node:fs";

import { openBootstrap, pipeReader, sharedSecrets } from "./core.mjs";

const variables = process.env;

// An app with a start command of its own has no entry point of ours before it; then the message is still unread.
if (!sharedSecrets() && variables.TAKO_BOOTSTRAP_FD !== undefined) {
  openBootstrap({
    env: variables,
    readPipe: globalThis.Deno ? readPipeOnDeno : pipeReader(fs),
    fail: (line) => {
      throw new Error(line);
    },
  });
}

/** Whether a Tako server, or `tako dev`, runs this process. */
export const isTako = sharedSecrets() !== undefined || variables.TAKO_ENV !== undefined;

/** The environment: Tako's own variables by name, any other by `get`. */
export const env = Object.freeze({
  /** `production`, `staging`, …; `development` outside of Tako. */
  get name() {
    return variables.TAKO_ENV ?? "development";
  },
  /** The deployed version, if any. */
  get build() {
    return variables.TAKO_BUILD;
  },
  /** The folder that outlives a release, if any. */
  get dataDir() {
    return variables.TAKO_DATA_DIR;
  },
  has(name) {
    return variables[name] !== undefined;
  },
  get(name, otherwise) {
    const value = variables[name] ?? otherwise;
    if (value === undefined) throw new Error(`variable ${name} is not set: add it to [vars] in tako.toml`);
    return value;
  },
});

const HIDDEN = "[secrets]";

/** The app's secrets; without Tako, the variables of the same names. */
export const secrets = Object.freeze({
  get(name) {
    const value = lookUp(name);
    if (value === undefined) throw new Error(`secret ${name} is not set: ${remedy(name)}`);
    return value;
  },
  has(name) {
    return lookUp(name) !== undefined;
  },
  /** Those that Tako delivered, sorted; none without it, since a secret then looks like any variable. */
  names() {
    return [...(sharedSecrets()?.keys() ?? [])].sort();
  },
  toJSON: () => HIDDEN,
  toString: () => HIDDEN,
  [Symbol.for("nodejs.util.inspect.custom")]: () => HIDDEN,
  [Symbol.for("Deno.customInspect")]: () => HIDDEN,
});

function lookUp(name) {
  const delivered = sharedSecrets();
  return delivered ? delivered.get(name) : variables[name];
}

function remedy(name) {
  return isTako ? `run "tako secrets set ${name} --env ${env.name}"` : `set the environment variable ${name}`;
}

function readPipeOnDeno(fd) {
  const path = `/dev/fd/${fd}`;
  return fs.statSync(path).isFIFO() ? fs.readFileSync(path, "utf8") : null;
}
