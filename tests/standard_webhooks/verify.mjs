// Verifies captured webhooks as a receiver in JavaScript would.
//
// The Standard Webhooks library knows HMAC (v1); for Ed25519 (v1a), which it lacks, Node's own crypto
// checks what the standard describes.

import assert from "node:assert";
import { createPublicKey, verify } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [, , casesFile, place] = process.argv;
const { Webhook, WebhookVerificationError } = createRequire(`${place}/`)("standardwebhooks");

function holds(key, body, headers) {
  if (key.startsWith("whsec_")) {
    try {
      assert.deepStrictEqual(new Webhook(key).verify(body, headers), JSON.parse(body));
      return true;
    } catch (error) {
      if (error instanceof WebhookVerificationError) return false;
      throw error;
    }
  }
  const x = Buffer.from(key.slice("whpk_".length), "base64").toString("base64url");
  const publicKey = createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x }, format: "jwk" });
  const content = `${headers["webhook-id"]}.${headers["webhook-timestamp"]}.${body}`;
  return headers["webhook-signature"]
    .split(" ")
    .map((signature) => signature.split(","))
    .filter(([version]) => version === "v1a")
    .some(([, encoded]) =>
      verify(null, Buffer.from(content), publicKey, Buffer.from(encoded, "base64")),
    );
}

const cases = JSON.parse(readFileSync(casesFile, "utf8"));
for (const { name, keys, strangers, body, headers } of cases) {
  for (const key of keys) {
    assert(holds(key, body, headers), `javascript: ${name}: the signature does not hold`);
    assert(!holds(key, `${body} `, headers), `javascript: ${name}: another body holds`);
    const other = { ...headers, "webhook-id": "other" };
    assert(!holds(key, body, other), `javascript: ${name}: another id holds`);
  }
  for (const key of strangers) {
    assert(!holds(key, body, headers), `javascript: ${name}: a stranger's key holds`);
  }
}
console.log(`javascript: ${cases.length} webhooks verified`);
