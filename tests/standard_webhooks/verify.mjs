// Verifies captured webhooks as a receiver in JavaScript would.
//
// The Standard Webhooks library knows HMAC (v1); for Ed25519 (v1a), which it lacks, Node's own crypto
// checks what the standard describes. The verifier that the README shows must agree with the library.

import assert from "node:assert";
import { createPublicKey, verify } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [, , casesFile, place] = process.argv;
const { Webhook, WebhookVerificationError } = createRequire(`${place}/`)("standardwebhooks");

const readme = readFileSync(new URL("../../README.md", import.meta.url), "utf8");
const shown = readme.split("```js\n")[1].split("```")[0];
const verifier = await import(`data:text/javascript,${encodeURIComponent(shown)}`);

function holdsByReadme(key, body, headers) {
  try {
    verifier.verify(key, headers, Buffer.from(body));
    return true;
  } catch {
    return false;
  }
}

function holdsByLibrary(key, body, headers) {
  try {
    assert.deepStrictEqual(new Webhook(key).verify(body, headers), JSON.parse(body));
    return true;
  } catch (error) {
    if (error instanceof WebhookVerificationError) return false;
    throw error;
  }
}

function holds(key, body, headers) {
  if (key.startsWith("whsec_")) {
    const verified = holdsByLibrary(key, body, headers);
    assert.equal(holdsByReadme(key, body, headers), verified, "javascript: the README disagrees");
    return verified;
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
