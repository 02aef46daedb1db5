// Makes a Postman collection of an OpenAPI document: node collection.mjs DOCUMENT.json COLLECTION.json
//
// The same document makes the same bytes: ids, which the converter draws at random, follow from names, parameters get
// examples, and what else it draws comes from a sequence that is the same in every run.

import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";

let drawn = 1;
// A linear congruential generator with the multiplier and increment of "Numerical Recipes". Before the converter is loaded,
// which keeps the function that it finds.
Math.random = () => (drawn = (drawn * 1664525 + 1013904223) % 2 ** 32) / 2 ** 32;
const converter = createRequire(import.meta.url)("openapi-to-postmanv2");
const [, , documentFile, collectionFile] = process.argv;

/** The document as the converter needs it: without errors, whose examples would be most of the collection. */
function prepared(document) {
  for (const operations of Object.values(document.paths)) {
    for (const operation of Object.values(operations)) {
      for (const parameter of operation.parameters) {
        if (parameter.schema) parameter.example ??= exampleOf(parameter.schema);
      }
      const successes = Object.entries(operation.responses).filter(([status]) => status < "400");
      operation.responses = Object.fromEntries(successes);
    }
  }
  delete document.webhooks;
  return document;
}

function exampleOf(schema) {
  const formats = { uuid: "019c1430-6a00-7000-8000-000000000001", "date-time": "2026-01-31T12:00:00Z" };
  return schema.examples?.[0] ?? schema.default ?? schema.enum?.[0] ?? formats[schema.format] ?? schema.minimum ?? (schema.type === "boolean" || "…");
}

/** A UUID that is always the same for the same text. */
function uuidOf(text) {
  const hex = createHash("sha256").update(text).digest("hex");
  return [hex.slice(0, 8), hex.slice(8, 12), `8${hex.slice(13, 16)}`, `8${hex.slice(17, 20)}`, hex.slice(20, 32)].join("-");
}

/** Finishes folders, requests, and their answers, whose key is that of the collection. */
function finish(items, path) {
  for (const item of items) {
    const place = `${path}/${item.name}`;
    if (item.id) item.id = uuidOf(place);
    if (item.item) finish(item.item, place);
    if (item.request?.auth === null) delete item.request.auth;
    for (const [index, response] of (item.response ?? []).entries()) {
      response.id = uuidOf(`${place}/${index}`);
      // It would say the request once more.
      delete response.originalRequest;
    }
  }
}

const options = {
  folderStrategy: "Tags",
  parametersResolution: "Example",
  enableOptionalParameters: false,
  alwaysInheritAuthentication: true,
};
const data = prepared(JSON.parse(readFileSync(documentFile, "utf8")));
converter.convertV2({ type: "json", data }, options, (error, { result, reason, output } = {}) => {
  if (error || !result) throw error ?? new Error(reason);
  const [{ data: collection }] = output;
  collection.info._postman_id = uuidOf(collection.info.name);
  collection.auth = {
    type: "apikey",
    apikey: [
      { key: "key", value: "X-API-Key", type: "string" },
      { key: "value", value: "{{apiKey}}", type: "string" },
      { key: "in", value: "header", type: "string" },
    ],
  };
  collection.variable = [
    { key: "baseUrl", value: "http://127.0.0.1:3000", type: "string" },
    { key: "apiKey", value: "", type: "string" },
  ];
  finish(collection.item, collection.info.name);
  writeFileSync(collectionFile, `${JSON.stringify(collection, null, 1)}\n`);
});
