// The client: openapi-fetch, with the types that are generated from the server's OpenAPI document.

import createClient, { type Client, type ClientOptions } from "openapi-fetch";
import type { components, paths } from "./schema.js";

/** A client of a server: `client.GET("/api/events", { params: { query: { limit: 10 } } })`. */
export type HookgateClient = Client<paths>;

/** What the API sends and takes, by the names in the document: `Schemas["Event"]`. */
export type Schemas = components["schemas"];

export interface ConnectOptions extends Omit<ClientOptions, "baseUrl"> {
  /** Such as `https://events.example.com`. */
  baseUrl: string;
  /** An organisation's key, or an operator's. */
  apiKey: string;
  /** Milliseconds until a request without an answer fails; 30,000 unless set. Long polls need more than their `wait`. */
  timeoutMs?: number;
}

/** A client of the server at `baseUrl`. */
export function connect({ baseUrl, apiKey, timeoutMs = 30_000, headers, ...options }: ConnectOptions): HookgateClient {
  const client = createClient<paths>({ ...options, baseUrl, headers });
  client.use({
    onRequest({ request }) {
      request.headers.set("x-api-key", apiKey);
      return new Request(request, { signal: AbortSignal.any([request.signal, AbortSignal.timeout(timeoutMs)]) });
    },
  });
  return client;
}
