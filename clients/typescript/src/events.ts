// Posts events in batches, and repeats what was not accepted.
//
// An event without a `dedup_id` gets one before it is first sent. So a batch whose answer was lost can be sent again: the
// server stores each event once.

import type { HookgateClient, Schemas } from "./client.js";

/** An event to post. */
export type NewEvent = Schemas["NewEvent"];

/** When to send a batch again. */
export interface RetryPolicy {
  /** Times that a batch is sent at most; 8. */
  attemptsMax: number;
  /** Wait before the second attempt, which doubles with each further one; 250. */
  firstWaitMs: number;
  /** Longest wait; 60,000. A server that asks for a longer one by `Retry-After` is not asked again. */
  waitMsMax: number;
}

export interface PostOptions {
  retry?: Partial<RetryPolicy>;
  /** Most events in one batch; a server takes 1000. */
  batchEventsMax?: number;
  /** Bytes of one batch; 4 MiB. Servers take 5 MiB unless set otherwise. */
  batchBytesMax?: number;
  /** Called before each wait. */
  onRetry?: (waitMs: number, reason: string) => void;
}

/** Some events were not accepted. */
export class PostError extends Error {
  override readonly name = "PostError";

  constructor(
    message: string,
    /** The status of the last answer, if there was one. */
    readonly status: number | undefined,
    /** Its body, if it came from Hookgate. */
    readonly problem: Problem | undefined,
    /** The ids of the events that were accepted, in order. */
    readonly ids: string[],
    /** The other events, in order and with their dedup ids: it is safe to post them again. */
    readonly rest: NewEvent[],
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

type Problem = Schemas["Problem"];

const defaults: RetryPolicy = { attemptsMax: 8, firstWaitMs: 250, waitMsMax: 60_000 };
// What comes from a server that stops, or from a proxy in front of it. A 429 or 503 is judged by its `Retry-After`.
const passing = new Set([408, 502, 504]);
// Smaller batches pass where these were refused.
const tooLarge = new Set(["batch_over_rate_limit", "batch_over_delivery_limit"]);

/**
 * Posts the events, and returns their ids in order once all are on the server's disk. Throws a PostError when some were
 * not accepted.
 */
export async function postEvents(
  client: HookgateClient,
  events: Iterable<NewEvent>,
  { retry, batchEventsMax = 1000, batchBytesMax = 4 * 1024 * 1024, onRetry }: PostOptions = {},
): Promise<string[]> {
  const policy = { ...defaults, ...retry };
  const waiting = Array.from(events, withDedupId);
  const texts = waiting.map((event) => JSON.stringify(event));
  const ids: string[] = [];
  let attempt = 0;
  while (ids.length < waiting.length) {
    const size = batchSize(texts, ids.length, batchEventsMax, batchBytesMax);
    attempt += 1;
    const answer = await send(client, `[${texts.slice(ids.length, ids.length + size).join(",")}]`);
    if (answer.ids) {
      if (answer.ids.length !== size) {
        const reason = `${answer.status} without the ids of ${size} events, which is no answer of Hookgate`;
        throw new PostError(reason, answer.status, undefined, ids, waiting.slice(ids.length));
      }
      ids.push(...answer.ids);
      attempt = 0;
      continue;
    }
    if (tooLarge.has(answer.problem?.code ?? "") && size > 1) {
      batchEventsMax = Math.floor(size / 2);
      attempt = 0;
      continue;
    }
    const waitMs = mayPass(answer) ? wait(policy, attempt, answer.retryAfterMs) : undefined;
    if (waitMs === undefined) {
      const { reason, status, problem, cause } = answer;
      throw new PostError(reason, status, problem, ids, waiting.slice(ids.length), { cause });
    }
    onRetry?.(waitMs, answer.reason);
    await new Promise((resolve) => setTimeout(resolve, waitMs));
  }
  return ids;
}

/** What became of a batch. */
interface Answer {
  /** Of accepted events. */
  ids?: string[];
  reason: string;
  status?: number;
  retryAfterMs?: number;
  problem?: Problem;
  cause?: unknown;
}

async function send(client: HookgateClient, body: string): Promise<Answer> {
  try {
    const { data, error, response } = await client.POST("/api/events/batch", {
      // Written before, to be counted.
      body: body as never,
      bodySerializer: (text) => text as string,
      headers: { "content-type": "application/json" },
    });
    // What is in front of the server may answer with anything.
    if (response.ok) return { ids: Array.isArray(data?.ids) ? data.ids : [], reason: "", status: response.status };
    // A proxy answers with something else.
    const problem = isProblem(error) ? error : undefined;
    return {
      reason: `${response.status} ${problem ? `${problem.code}: ${problem.detail}` : response.statusText}`,
      status: response.status,
      retryAfterMs: retryAfterMs(response),
      problem,
    };
  } catch (cause) {
    return { reason: `no answer: ${cause}`, cause };
  }
}

function isProblem(error: unknown): error is Problem {
  return typeof error === "object" && error !== null && "code" in error;
}

function withDedupId(event: NewEvent): NewEvent {
  // `event_id` is another name of it.
  if ((event.dedup_id ?? (event as { event_id?: unknown }).event_id ?? null) !== null) return event;
  return { ...event, dedup_id: crypto.randomUUID() };
}

/** How many events go into the next batch; at least one. */
function batchSize(texts: string[], start: number, eventsMax: number, bytesMax: number): number {
  let size = 0;
  let length = 2;
  for (const text of texts.slice(start, start + eventsMax)) {
    length += Buffer.byteLength(text) + 1;
    if (size > 0 && length > bytesMax) break;
    size += 1;
  }
  return size;
}

/** Whether the same batch may be accepted later. */
function mayPass({ status, problem, retryAfterMs }: Answer): boolean {
  if (status === undefined) return true;
  if (status === 429 || status === 503) {
    // Without the header waiting does not help; a proxy knows nothing of that. A batch that timed out may have been
    // accepted, which the dedup ids make harmless.
    return retryAfterMs !== undefined || problem === undefined || problem.code === "request_timeout";
  }
  return passing.has(status);
}

/** The wait after this attempt, from 1; undefined to give up. */
function wait(policy: RetryPolicy, attempt: number, retryAfterMs: number | undefined): number | undefined {
  if (attempt >= policy.attemptsMax || (retryAfterMs ?? 0) > policy.waitMsMax) return undefined;
  const backoffMs = Math.min(policy.waitMsMax, policy.firstWaitMs * 2 ** (attempt - 1));
  // Many clients that were refused together come back at different times.
  const spread = (Math.random() * backoffMs) / 2;
  return retryAfterMs === undefined ? backoffMs / 2 + spread : retryAfterMs + spread;
}

/** What the answer asks to wait: seconds, or an HTTP date as proxies send it. */
function retryAfterMs(response: Response): number | undefined {
  const text = response.headers.get("retry-after") ?? "";
  if (/^\d+$/.test(text)) return Number(text) * 1000;
  const at = Date.parse(text);
  return Number.isNaN(at) ? undefined : Math.max(0, at - Date.now());
}
