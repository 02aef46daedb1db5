// Runs the TypeScript client against a server, as its users would.

import assert from "node:assert/strict";
import { createServer, type IncomingHttpHeaders } from "node:http";
import type { AddressInfo } from "node:net";
import { isDeepStrictEqual } from "node:util";
import { Webhook as Signer } from "standardwebhooks";
import { connect, type HookgateClient, PostError, postEvents, WebhookVerificationError, WebhookVerifier } from "./index.js";

const baseUrl = process.env["HOOKGATE_URL"] ?? "";
const apiKey = process.env["HOOKGATE_API_KEY"] ?? "";
// A machine that is busy with other tests is slow.
const PATIENCE_MS = 60_000;

interface Request {
  headers: IncomingHttpHeaders;
  body: Buffer;
}

/** Receives webhooks, and keeps their headers and bodies. */
class Receiver {
  readonly received: Request[] = [];
  readonly #server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    this.received.push({ headers: request.headers, body: Buffer.concat(chunks) });
    response.writeHead(204).end();
  });

  async start(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/`;
  }

  stop(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }
}

async function until(what: string, done: () => Promise<boolean>): Promise<void> {
  const end = Date.now() + PATIENCE_MS;
  while (!(await done())) {
    assert(Date.now() < end, `in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Every event of a list, page by page, and the number of pages. */
async function pages(client: HookgateClient, type: string): Promise<{ ids: string[]; count: number }> {
  const ids: string[] = [];
  let cursor: string | undefined;
  for (let count = 1; ; count += 1) {
    const query = { type, limit: 100, order: "asc" as const, cursor };
    const { data } = await client.GET("/api/events", { params: { query } });
    assert(data);
    ids.push(...data.data.map((event) => event.id));
    if (data.next_cursor === null) return { ids, count };
    cursor = data.next_cursor;
  }
}

async function postsEachEventOnceOverABadConnection(client: HookgateClient): Promise<string[]> {
  let requests = 0;
  // Loses the answer to the first request, which the server has accepted; a proxy answers the second.
  const badFetch = async (request: globalThis.Request): Promise<Response> => {
    requests += 1;
    if (requests === 2) return new Response("<h1>Unavailable</h1>", { status: 503, headers: { "retry-after": "1" } });
    const answer = await fetch(request);
    if (requests === 1) {
      assert.equal(answer.status, 202);
      throw new TypeError("fetch failed");
    }
    return answer;
  };
  const waits: [number, string][] = [];
  const ids = await postEvents(
    connect({ baseUrl, apiKey, fetch: badFetch }),
    Array.from({ length: 250 }, (_, n) => ({ type: "parcel.sent", payload: { n } })),
    { batchEventsMax: 100, onRetry: (waitMs, reason) => waits.push([waitMs, reason]) },
  );
  assert.equal(new Set(ids).size, 250);
  const [lost, refused] = waits;
  assert(lost && refused && waits.length === 2, `${waits}`);
  assert(lost[1].startsWith("no answer") && refused[1].startsWith("503") && refused[0] >= 1000, `${waits}`);
  // The first batch three times, then the others.
  assert.equal(requests, 5);
  const last = ids.at(-1) ?? "";
  await until("the events are stored", async () => {
    const { data } = await client.GET("/api/events/{id}", { params: { path: { id: last } } });
    return data?.id === last;
  });
  const read = await pages(client, "parcel.*");
  assert(isDeepStrictEqual(read.ids, ids), "events are missing, or are there twice");
  assert.equal(read.count, 3);
  return ids;
}

async function verifiesWebhooks(receiver: Receiver, secret: string, ids: string[]): Promise<void> {
  const verifier = new WebhookVerifier(`whsec_${"Zm9v".repeat(8)}`, secret);
  await until("every webhook comes", async () => receiver.received.length >= ids.length);
  const numbers = new Map<string, unknown>();
  for (const { headers, body } of receiver.received) {
    const webhook = verifier.verify(headers, body);
    assert.equal(webhook.type, "parcel.sent");
    numbers.set(webhook.id, (webhook.data as { n: number }).n);
  }
  assert.deepEqual(ids.map((id) => numbers.get(id)), Array.from(ids, (_, n) => n));
  const [first] = receiver.received;
  assert(first);
  const { headers, body } = first;
  const forgeries: [IncomingHttpHeaders, Buffer][] = [
    [headers, Buffer.concat([body, Buffer.from(" ")])],
    [headers, Buffer.from([0xff])],
    [{ ...headers, "webhook-signature": "v1" }, body],
    [{ ...headers, "webhook-timestamp": "1" }, body],
    [{}, body],
  ];
  for (const [forgedHeaders, forgedBody] of forgeries) {
    assert.throws(() => verifier.verify(forgedHeaders, forgedBody), WebhookVerificationError);
  }
}

/** Webhooks in the other format, and bodies that are in none. */
async function verifiesCloudEvents(client: HookgateClient, receiver: Receiver, url: string): Promise<void> {
  const body = { url, event_types: ["cloud.*"], format: "cloudevents" as const };
  const { data: endpoint } = await client.POST("/api/endpoints", { body });
  assert(endpoint);
  const secret = endpoint.secret ?? "";
  const verifier = new WebhookVerifier(secret);
  const before = receiver.received.length;
  const aliased = { type: "cloud.sent", payload: { n: 1 }, account_id: "acme", user_id: "ada", event_id: "an alias" };
  const [id] = await postEvents(client, [aliased]);
  assert.deepEqual(await postEvents(client, [aliased]), [id], "the alias of the dedup id is respected");
  await until("the CloudEvent comes", async () => receiver.received.length > before);
  const { headers, body: received } = receiver.received[before] as Request;
  const { timestamp, ...webhook } = verifier.verify(headers, received);
  assert.deepEqual(webhook, { id, type: "cloud.sent", data: { n: 1 }, accountId: "acme", userId: "ada" });
  assert(timestamp);
  await client.DELETE("/api/endpoints/{id}", { params: { path: { id: endpoint.id } } });

  const signed = (text: string) => {
    const at = new Date();
    const headers = {
      "webhook-id": "one",
      "webhook-timestamp": `${Math.floor(at.getTime() / 1000)}`,
      "webhook-signature": new Signer(secret).sign("one", at, text),
    };
    return verifier.verify(headers, text);
  };
  const binary = signed('{"specversion":"1.0","id":"1","source":"/s","type":"a","data_base64":"AP8="}');
  assert.deepEqual([binary.type, binary.timestamp, binary.data], ["a", undefined, new Uint8Array([0, 255])]);
  assert.equal(signed('{"type":"a","timestamp":"t","account_id":"acme","data":null}').accountId, "acme");
  for (const other of ["", "1", "null", "[]", "{}", '{"type":"a"}', '{"specversion":"1.0"}']) {
    assert.throws(() => signed(other), WebhookVerificationError, other);
  }
}

async function doesNotTrustAnswersWithoutIds(): Promise<void> {
  for (const answer of ['{"ids":["1"]}', '{"ids":[]}', "{}", "[]"]) {
    const headers = { "content-type": "application/json" };
    const fetch = async (): Promise<Response> => new Response(answer, { status: 202, headers });
    const refused = await failureOf(postEvents(connect({ baseUrl, apiKey, fetch }), events(2)));
    assert.deepEqual([refused.status, refused.ids, refused.rest.length], [202, [], 2], answer);
  }
}

async function tellsWhatWasRefused(client: HookgateClient): Promise<void> {
  const { error, response } = await connect({ baseUrl, apiKey: "hg_wrong" }).GET("/api/org");
  assert.deepEqual([response.status, error?.code], [401, "unauthorized"]);
  const refused = await failureOf(
    postEvents(client, [
      { type: "a", payload: 1 },
      { type: "not a type", payload: 2 },
    ]),
  );
  assert.deepEqual([refused.status, refused.problem?.code, refused.ids], [422, "validation_failed", []]);
  assert.deepEqual(refused.problem?.errors?.map(({ index, field }) => [index, field]), [[1, "type"]]);
  assert.deepEqual(refused.rest.map((event) => event.payload), [1, 2]);
}

/** A client with a key of 600 events per minute, none of them used. */
async function limited(client: HookgateClient): Promise<HookgateClient> {
  const { data } = await client.POST("/api/keys", { body: { name: "limited", rate_limit_per_minute: 600 } });
  assert(data);
  return connect({ baseUrl, apiKey: data.key });
}

function events(length: number): { type: string; payload: number }[] {
  return Array.from({ length }, (_, n) => ({ type: "user.login", payload: n }));
}

async function waitsForRateLimits(client: HookgateClient): Promise<void> {
  const slow = await limited(client);
  const waits: [number, string][] = [];
  const onRetry = (waitMs: number, reason: string) => waits.push([waitMs, reason]);
  const ids = await postEvents(slow, events(650), { batchEventsMax: 600, onRetry });
  assert.equal(new Set(ids).size, 650);
  const [wait] = waits;
  assert(wait && wait[0] >= 1000 && wait[1].startsWith("429 key_rate_limited"), `${waits}`);
  const refused = await failureOf(postEvents(slow, events(500), { retry: { attemptsMax: 1 } }));
  assert.deepEqual([refused.status, refused.problem?.code, refused.rest.length], [429, "key_rate_limited", 500]);
  assert(refused.rest.every((event) => event.dedup_id));
}

async function makesBatchesSmallerThatWouldNeverPass(client: HookgateClient): Promise<void> {
  const ids = await postEvents(await limited(client), events(601));
  assert.equal(new Set(ids).size, 601);
}

async function failureOf(posting: Promise<unknown>): Promise<PostError> {
  try {
    await posting;
  } catch (error) {
    assert(error instanceof PostError, `${error}`);
    return error;
  }
  throw new assert.AssertionError({ message: "it was accepted" });
}

const client = connect({ baseUrl, apiKey });
const receiver = new Receiver();
const url = await receiver.start();
const { data: endpoint } = await client.POST("/api/endpoints", { body: { url, event_types: ["parcel.*"] } });
assert(endpoint);
const ids = await postsEachEventOnceOverABadConnection(client);
await verifiesWebhooks(receiver, endpoint.secret ?? "", ids);
await verifiesCloudEvents(client, receiver, url);
await doesNotTrustAnswersWithoutIds();
await tellsWhatWasRefused(client);
await waitsForRateLimits(client);
await makesBatchesSmallerThatWouldNeverPass(client);
const removed = await client.DELETE("/api/endpoints/{id}", { params: { path: { id: endpoint.id } } });
assert.equal(removed.response.status, 204);
receiver.stop();
console.log("typescript: the client works");
