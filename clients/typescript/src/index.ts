// Client of Hookgate: `connect` for the whole API, `postEvents` for events in batches, `WebhookVerifier` for receivers.

export * from "./client.js";
export * from "./events.js";
export * from "./webhooks.js";
export type { components, operations, paths } from "./schema.js";
