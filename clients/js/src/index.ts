// @notify-server/client: listening to a notify-server in five lines. See README.md.

export { type Client, connect, type Off } from "./client.js";
export type * from "./events.js";
export type { Environment, Options, Timing } from "./options.js";
export { type CloseReason, describe, type Problem, type State, type Transport } from "./state.js";
