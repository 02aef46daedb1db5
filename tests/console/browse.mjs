// Reads and steers the console in a real Chromium: browse.mjs BASE TENANT_KEY OPERATOR_KEY RECEIVER [SCREENSHOTS|brief]
//
// Fails at the first flow that does not work, and at the end if axe-core found something, if a page wrote an error to
// the browser's console, or if one asked another host for anything.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const [base, tenantKey, operatorKey, receiver, last] = process.argv.slice(2);
// Brief: the flows, and every page at one width.
const isBrief = last === "brief";
const shots = isBrief ? undefined : last;
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const faults = [];

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-background-networking", "--disable-component-update"],
});

const watched = async (options, others = []) => {
  const context = await browser.newContext({ locale: "en-GB", timezoneId: "Europe/Berlin", ...options });
  const page = await context.newPage();
  // Answers that are no success are written there, too; a flow that wants one says so.
  page.on("console", (message) => {
    if (message.type() === "error" && !page.refusals) faults.push(`${page.url()}: console: ${message.text()}`);
  });
  page.on("pageerror", (error) => faults.push(`${page.url()}: ${error}`));
  page.on("request", (request) => {
    if (![base, ...others].some((own) => request.url().startsWith(own))) faults.push(`${page.url()}: asks ${request.url()}`);
  });
  page.setDefaultTimeout(20_000);
  return page;
};

const check = async (page, name) => {
  // By the debugging protocol, which the pages' own policy does not forbid.
  await page.evaluate(axe);
  const found = await page.evaluate(() => axe.run(document, {
    runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
  }));
  for (const violation of found.violations) {
    const where = violation.nodes.slice(0, 3).map((node) => `${node.target} ${node.failureSummary}`).join(" | ");
    faults.push(`${name} ${page.url()}: ${violation.id}: ${violation.help}: ${where}`);
  }
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  if (overflow > 0) faults.push(`${name} ${page.url()}: wider than the window by ${overflow}`);
};

const signIn = async (page, key) => {
  await page.goto(`${base}/console`);
  await page.getByLabel("API key").fill(key);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("heading", { name: "Overview", level: 1 }).waitFor();
};

const post = async (type, payload, more = {}) => {
  const answer = await fetch(`${base}/api/events`, {
    method: "POST",
    headers: { "x-api-key": tenantKey, "content-type": "application/json" },
    body: JSON.stringify({ type, payload, ...more }),
  });
  if (answer.status !== 202) throw new Error(`${answer.status} ${await answer.text()}`);
};

const api = async (path, options = {}) => {
  const headers = { "x-api-key": tenantKey, "content-type": "application/json" };
  return (await fetch(base + path, { headers, ...options })).json();
};

// The flows, at the width of a desk.
const page = await watched({ viewport: { width: 1280, height: 860 } });
await page.goto(`${base}/console/events?type=user.*`);
await check(page, "sign-in");
await page.getByLabel("API key").fill(tenantKey);
await page.keyboard.press("Enter");
await page.waitForURL(`${base}/console/events?type=user.*`);

await page.getByRole("link", { name: "Endpoints", exact: true }).click();
await page.getByRole("link", { name: "Add the first one" }).click();
await page.getByLabel("URL").pressSequentially("ftp://example.com");
await page.getByText("Must be https").waitFor();
await check(page, "url-checked");
await page.getByLabel("URL").fill(receiver);
await page.getByLabel("Description").fill("Orders to the CRM");
await page.getByRole("button", { name: "Create endpoint" }).click();
await page.getByText("whsec_").waitFor();
await page.getByRole("button", { name: "Copy Signing secret" }).waitFor();
await check(page, "endpoint-created");
await page.getByRole("button", { name: "Send test event" }).click();
// The page is read again by itself until the outcome is there.
await page.getByText("The receiver took it.").waitFor();
await page.getByText("answered 200").waitFor();
await check(page, "delivery");

// One that refuses everything, for what is given up.
const refusing = { url: new URL("/refuse", receiver).href, event_types: ["order.shipped"], description: "Refuses" };
await api("/api/endpoints", { method: "POST", body: JSON.stringify(refusing) });

// The live tail shows what happens meanwhile.
await page.getByRole("link", { name: "Live", exact: true }).click();
await page.getByText("Live", { exact: true }).last().waitFor();
const types = ["user.login", "invoice.paid", "order.created", "order.shipped"];
for (let number = 0; number < 24; number += 1) {
  const payload = { order: number, items: [{ sku: "A-1", count: 2, price: 12.5 }], paid: true, note: null };
  await post(types[number % types.length], payload, { account_id: `account-${number % 5}`, user_id: "ada" });
}
// Servers log changes from a moment after the first one follows them.
const live = page.locator("tbody tr").filter({ hasText: "invoice.paid" }).first();
for (let tries = 0; tries < 100 && !(await live.isVisible()); tries += 1) {
  await post("invoice.paid", { order: 100 + tries, items: [{ sku: "A-1", count: 1 }] });
  await page.waitForTimeout(200);
}
await live.waitFor();
await check(page, "live");
await page.getByRole("button", { name: "Pause" }).click();
await page.getByText("Paused").waitFor();

await page.getByRole("link", { name: "Events", exact: true }).first().click();
await page.getByLabel("Type", { exact: true }).fill("invoice.*");
await page.getByRole("button", { name: "Filter" }).click();
await page.getByRole("link", { name: "invoice.paid" }).first().click();
await page.getByText('"sku"', { exact: true }).first().waitFor();
const event = page.url();
await page.goBack();
await page.waitForURL(/type=invoice/);
const time = page.locator("time").first();
await page.locator("time[data-local]").first().waitFor();
if (!/UTC$/.test(await time.getAttribute("title"))) faults.push("a time has no UTC on hover");

// The keyboard reaches the content first.
await page.keyboard.press("Tab");
const skip = await page.evaluate(() => document.activeElement.textContent);
if (skip !== "Skip to content") faults.push(`the first stop of the keyboard is ${skip}`);

await page.getByRole("link", { name: "Keys", exact: true }).click();
await page.getByRole("link", { name: "Create key" }).click();
await page.getByLabel("Name").fill("importer");
await page.getByLabel("events:write").check();
await page.getByRole("button", { name: "Create key" }).click();
await page.getByText("shown only now").waitFor();
await check(page, "key-created");

while ((await api("/api/dead-letters")).data.length === 0) await new Promise((done) => setTimeout(done, 100));

// Every page, in light and dark, wide and narrow.
const listed = async (key) => {
  const reader = await watched({});
  await signIn(reader, key);
  const links = await reader.locator("nav.side a").evaluateAll((all) => all.map((a) => a.getAttribute("href")));
  await reader.context().close();
  return links;
};
const first = async (key, list, below) => {
  const reader = await watched({});
  await signIn(reader, key);
  await reader.goto(base + list);
  const href = await reader.locator(`main tbody a[href^="${below}/"]`).first().getAttribute("href");
  await reader.context().close();
  return href;
};
const details = [
  event.slice(base.length),
  await first(tenantKey, "/console/deliveries", "/console/deliveries"),
  await first(tenantKey, "/console/endpoints", "/console/endpoints"),
  await first(tenantKey, "/console/dead-letters", "/console/dead-letters"),
  await first(tenantKey, "/console/keys", "/console/keys"),
  "/console/accounts/summary?account_id=account-1",
  "/console/endpoints/new",
  "/console/endpoints/new?kind=pull",
  "/console/keys/new",
];
const endpoint = details[2];
const pages = {
  tenant: [tenantKey, [...await listed(tenantKey), ...details, `${endpoint}/edit`]],
  operator: [operatorKey, [...await listed(operatorKey), await first(operatorKey, "/console/orgs", "/console/orgs")]],
};
for (const [who, [key, paths]] of Object.entries(pages)) {
  for (const colorScheme of isBrief ? ["light"] : ["light", "dark"]) {
    for (const width of isBrief ? [1280] : [1280, 390]) {
      const reader = await watched({ viewport: { width, height: width > 600 ? 860 : 844 }, colorScheme });
      await signIn(reader, key);
      for (const path of paths) {
        await reader.goto(base + path);
        await check(reader, `${who} ${colorScheme} ${width}`);
        if (shots) {
          const name = path.replace(/[0-9a-f-]{36}/, "one").replaceAll(/[^a-z]+/g, "-").replace(/^-console/, "") || "-overview";
          await reader.screenshot({ path: `${shots}/${who}${name}-${colorScheme}-${width}.png`, fullPage: false });
        }
      }
      await reader.context().close();
    }
  }
}

// Reading works without scripts.
const plain = await watched({ javaScriptEnabled: false, viewport: { width: 1280, height: 860 } });
await signIn(plain, tenantKey);
for (const path of pages.tenant[1]) {
  const answer = await plain.goto(base + path);
  if (answer.status() !== 200) faults.push(`${path} without scripts: ${answer.status()}`);
  if ((await plain.locator("h1").count()) !== 1) faults.push(`${path} without scripts: no heading`);
}
await plain.getByRole("button", { name: "Sign out" }).click();
await plain.getByLabel("API key").waitFor();

// Times in forms are the reader's, and sent with their zone.
const timed = await watched({ viewport: { width: 1280, height: 860 } });
await signIn(timed, tenantKey);
await timed.goto(`${base}/console/events?since=2026-01-31T12:00`);
const from = timed.getByLabel("From (your time)");
if (!(await from.inputValue()).startsWith("2026-01-31T13:00")) faults.push(`a time in a form is ${await from.inputValue()}`);
await from.fill("2026-07-31T13:00:00");
await timed.getByRole("button", { name: "Filter" }).click();
await timed.waitForURL(/since=2026-07-31T11%3A00%3A00.000Z/);

// The portal, in a page of another site.
const embedding = createServer((request, answer) => {
  const link = new URL(request.url, "http://localhost").searchParams.get("link");
  const frame = link ? `<iframe title="Webhooks" width="1200" height="800" src="${link}"></iframe>` : "Settings";
  answer.writeHead(200, { "content-type": "text/html; charset=utf-8" });
  answer.end(`<!doctype html><html lang="en"><title>Customer</title><link rel="icon" href="data:,"><main>${frame}</main>`);
});
await new Promise((done) => embedding.listen(0, "127.0.0.1", done));
const site = `http://localhost:${embedding.address().port}`;
const png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
const looks = { name: "Acme", colour: "#8a3c00", logo: `data:image/png;base64,${png}`, allowed_origins: [site] };
await api("/api/portal", { method: "PATCH", body: JSON.stringify(looks) });
const account = { url: receiver, account_id: "account-1", description: "Of one account" };
await api("/api/endpoints", { method: "POST", body: JSON.stringify(account) });
await post("invoice.paid", { order: 999 }, { account_id: "account-1" });
const link = async () => {
  const wanted = { account_id: "account-1", return_url: `${site}/` };
  return (await api("/api/portal-links", { method: "POST", body: JSON.stringify(wanted) })).url;
};
const portalPages = async (portal, shown) => {
  for (const name of ["Events", "Endpoints", "Deliveries", "Dead letters", "Session", "Overview"]) {
    await portal.getByRole("link", { name, exact: true }).first().click();
    await portal.getByRole("heading", { name, level: 1 }).waitFor();
    await shown(name);
  }
  await portal.getByRole("link", { name: "Events", exact: true }).click();
  await portal.getByRole("link", { name: "invoice.paid" }).first().click();
  await portal.getByText("999").first().waitFor();
  if (await portal.getByText("Orders to the CRM").count()) faults.push("the portal shows another endpoint");
  await portal.getByRole("link", { name: "Endpoints", exact: true }).click();
  await portal.locator("main tbody a").first().click();
  await portal.getByRole("button", { name: "Send test event" }).click();
  await portal.getByText("The receiver took it.").waitFor();
};
for (const colorScheme of ["light", "dark"]) {
  const customer = await watched({ viewport: { width: 1280, height: 860 }, colorScheme }, [site]);
  await customer.goto(await link());
  await check(customer, "portal link");
  await customer.getByRole("button", { name: "Open" }).click();
  await portalPages(customer, async (name) => {
    await check(customer, `portal ${name} ${colorScheme}`);
    if (shots) await customer.screenshot({ path: `${shots}/portal-${name.toLowerCase().replace(" ", "-")}-${colorScheme}.png` });
  });
  await customer.getByRole("link", { name: "Back", exact: true }).click();
  await customer.waitForURL(`${site}/`);
  await customer.context().close();
}
const customer = await watched({ viewport: { width: 1280, height: 900 } }, [site, "data:"]);
await customer.goto(`${site}/?link=${encodeURIComponent(await link())}`);
const framed = customer.frameLocator("iframe");
await framed.getByRole("button", { name: "Open" }).click();
await framed.getByRole("heading", { name: "Overview", level: 1 }).waitFor();
await portalPages(framed, async () => {});
await framed.getByRole("button", { name: "Close" }).click();
await framed.getByRole("heading", { name: "Closed" }).waitFor();
// The console itself is shown in no frame.
customer.refusals = true;
await customer.goto(`${site}/?link=${encodeURIComponent(`${base}/console/sign-in`)}`);
await customer.waitForTimeout(500);
if (await customer.frameLocator("iframe").getByLabel("API key").count()) faults.push("the console is shown in a frame");
embedding.close();

await browser.close();
if (faults.length > 0) {
  console.error(faults.join("\n"));
  process.exit(1);
}
console.log(`${pages.tenant[1].length + pages.operator[1].length} pages are well`);
