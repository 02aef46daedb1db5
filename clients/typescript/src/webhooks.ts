// Verifies webhooks, by the Standard Webhooks library.

import { Webhook as Verifier, WebhookVerificationError } from "standardwebhooks";

export { WebhookVerificationError };

/** A webhook whose signature holds. */
export interface Webhook {
  /** The event's id, the same on every attempt: ignore a webhook whose id was processed before. */
  id: string;
  /** The event's type. */
  type: string;
  /** When the event happened, RFC 3339. */
  timestamp: string;
  /** The payload. */
  data: unknown;
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
   * The webhook of a request with these headers and this raw body. Throws a WebhookVerificationError when no signature
   * holds, or its timestamp is five minutes off.
   */
  verify(headers: WebhookHeaders, body: Uint8Array | string): Webhook {
    const plain = plainHeaders(headers);
    const text = typeof body === "string" ? body : decode(body);
    let failure: unknown;
    for (const verifier of this.#verifiers) {
      try {
        verifier.verify(text, plain, { jsonParse: false });
        const { type, timestamp, data } = JSON.parse(text) as Omit<Webhook, "id">;
        return { id: plain["webhook-id"] ?? "", type, timestamp, data };
      } catch (error) {
        failure = error;
      }
    }
    throw failure;
  }
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
