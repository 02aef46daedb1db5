// Verifies webhooks, by the Standard Webhooks library.

import { Webhook as Verifier, WebhookVerificationError } from "standardwebhooks";

export { WebhookVerificationError };

/** A webhook whose signature holds. */
export interface Webhook {
  /** The event's id, the same on every attempt: ignore a webhook whose id was processed before. */
  id: string;
  /** The event's type. */
  type: string;
  /** When the event happened, RFC 3339. A CloudEvent need not tell. */
  timestamp?: string;
  /** The payload; of a CloudEvent its data, which is a Uint8Array where it is not JSON. */
  data: unknown;
  /** The account of the event, the `subject` of a CloudEvent, if it has one. */
  accountId?: string;
  /** The user of the event, the `userid` of a CloudEvent, if it has one. */
  userId?: string;
}

/** Headers of a request, as Node.js and as the Fetch API have them. */
export type WebhookHeaders = Headers | Record<string, string | string[] | undefined>;

/**
 * Verifies webhooks of an endpoint. `secrets` are the endpoint's `whsec_…`, several while one is rotated. The library
 * knows no Ed25519 (`whpk_…`).
 */
export class WebhookVerifier {
  readonly #verifiers: Verifier[];

  constructor(...secrets: string[]) {
    if (secrets.length === 0) throw new TypeError("a secret is missing");
    for (const secret of secrets) {
      if (!secret.startsWith("whsec_")) {
        throw new TypeError("a secret begins with whsec_; endpoints with the signature ed25519 are not supported");
      }
    }
    this.#verifiers = secrets.map((secret) => new Verifier(secret));
  }

  /**
   * The webhook of a request with these headers and this raw body, in either format of endpoints. Throws a
   * WebhookVerificationError when no signature holds, its timestamp is five minutes off, or the body is that of neither
   * format.
   */
  verify(headers: WebhookHeaders, body: Uint8Array | string): Webhook {
    const plain = plainHeaders(headers);
    const text = typeof body === "string" ? body : decode(body);
    let failure: unknown;
    for (const verifier of this.#verifiers) {
      try {
        verifier.verify(text, plain, { jsonParse: false });
      } catch (error) {
        failure = error;
        continue;
      }
      return webhookOf(plain["webhook-id"] ?? "", text);
    }
    throw failure;
  }
}

/** The webhook with this signed body, in either format of endpoints. */
function webhookOf(id: string, text: string): Webhook {
  const content = parsed(text);
  const isCloudEvent = "specversion" in content;
  const names = isCloudEvent ? (["time", "subject", "userid"] as const) : (["timestamp", "account_id", "user_id"] as const);
  const [timestamp, accountId, userId] = names.map((name) => textOf(content[name]));
  const type = textOf(content["type"]);
  if (type === undefined || !(isCloudEvent || "data" in content)) throw notOfHookgate();
  return { id, type, timestamp, data: isCloudEvent ? cloudEventData(content) : content["data"], accountId, userId };
}

function parsed(text: string): Record<string, unknown> {
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch {
    throw notOfHookgate();
  }
  if (typeof content !== "object" || content === null) throw notOfHookgate();
  return content as Record<string, unknown>;
}

function textOf(value: unknown): string | undefined {
  return typeof value === "string" ? value : undefined;
}

/** The data of a CloudEvent in the JSON format; null if it has none. */
function cloudEventData(event: Record<string, unknown>): unknown {
  const binary = textOf(event["data_base64"]);
  return binary === undefined ? (event["data"] ?? null) : new Uint8Array(Buffer.from(binary, "base64"));
}

function notOfHookgate(): WebhookVerificationError {
  return new WebhookVerificationError("the signature holds, but this is no webhook of Hookgate");
}

function plainHeaders(headers: WebhookHeaders): Record<string, string> {
  const pairs = headers instanceof Headers ? [...headers] : Object.entries(headers);
  const plain: Record<string, string> = {};
  for (const [name, value] of pairs) {
    if (typeof value === "string") plain[name.toLowerCase()] = value;
  }
  return plain;
}

function decode(body: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(body);
  } catch {
    throw new WebhookVerificationError("the body is not UTF-8");
  }
}
