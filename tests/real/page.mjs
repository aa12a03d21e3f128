// Drives the CD server's page in a headless browser: by keyboard, in light and dark, with an accessibility check of every page.
//
//   node page.mjs BASE_URL MODULES [PICTURES]      MODULES: a folder with playwright-core and axe-core
//
// PASSWORD is ada's, an operator; BOB is bob's, a viewer. Ends with 0 when everything is as it has to be.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import fs from "node:fs";
import path from "node:path";

const [base, modules, pictures] = process.argv.slice(2);
const require = createRequire(path.join(modules, "x.js"));
const { chromium } = require("playwright-core");
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });

// What the page does wrong by itself: errors of its script, and what its policy forbids.
const complaints = [];
async function open(scheme = "light") {
  const context = await browser.newContext({ colorScheme: scheme, viewport: { width: 1100, height: 800 }, baseURL: base });
  const page = await context.newPage();
  page.on("console", (message) => { if (message.type() === "error" && !/status of (401|403|404|429)/.test(message.text())) complaints.push(message.text()); });
  page.on("pageerror", (error) => complaints.push(String(error)));
  return { context, page };
}
async function fit(page, name) {
  // The policy of the page lets no foreign script in, so the checker comes by the browser's own way.
  await page.evaluate(axe);
  const { violations, passes } = await page.evaluate(() => axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }));
  assert.ok(passes.length > 5, "the checker has looked at something");
  assert.deepEqual(violations.map((v) => `${name}: ${v.id} ${v.nodes[0].html}`), []);
}
async function picture(page, name) {
  if (pictures) await page.screenshot({ path: path.join(pictures, `${name}.png`) });
}
async function login(page, name, password) {
  await page.goto("/ui/login");
  await page.waitForFunction(() => document.activeElement?.id === "name"); // the first field has the focus by itself
  await page.keyboard.type(name);
  await page.keyboard.press("Tab");
  await page.keyboard.type(password);
  await page.keyboard.press("Enter");
}

const { context, page } = await open();
await page.goto("/ui/");
assert.match(page.url(), /\/ui\/login$/, "who is not logged in sees nothing");
await fit(page, "login");
await login(page, "ada", "wrong password");
assert.equal(await page.getByRole("alert").textContent(), "The name or the password is not right.");
await login(page, "ada", process.env.PASSWORD);
await page.getByRole("heading", { name: "Apps and jobs" }).waitFor();
const [cookie] = await context.cookies();
assert.ok(cookie.httpOnly && cookie.sameSite === "Strict", JSON.stringify(cookie));
await fit(page, "overview");

// The first stop of the keyboard leads past the head.
await page.keyboard.press("Tab");
assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to content");

// Deploy by keyboard, and see the output come.
await page.getByRole("button", { name: "Deploy my-app" }).focus();
await page.keyboard.press("Enter");
await page.getByRole("heading", { name: /^Job / }).waitFor();
const log = page.getByRole("log");
await log.getByText("step 2").waitFor();
await fit(page, "running job");
await page.locator("#status", { hasText: "success" }).waitFor();
const text = await log.textContent();
assert.match(text, /step 1\nstep 2\nstep 3\n/);
assert.match(text, /Process terminated with return code: 0\n$/);
assert.equal(text.match(/step 2/g).length, 1, "no line twice");
assert.ok(text.includes("<script>document.title='taken'</script>") && !(await page.title()).includes("taken"), "words stay words");
assert.ok(!text.includes("\u001b"), "no terminal colours");
await fit(page, "ended job");

// Cancel.
await page.goto("/ui/");
await page.getByRole("button", { name: "Deploy my-app" }).click();
await page.getByRole("log").getByText("step 1").waitFor();
await picture(page, "serve-job-light");
await page.getByRole("button", { name: "Cancel this job" }).click();
await page.locator("#status", { hasText: "cancelled" }).waitFor();
assert.equal(await page.getByRole("button", { name: "Cancel this job" }).count(), 0);
assert.ok(await page.getByText("cancelled by ada").first().isVisible());

// A form without its token, or from another site, does nothing.
for (const [body, headers] of [["", {}], ["token=x", {}]]) {
  const answer = await page.evaluate(async ([body, headers]) => (await fetch("/ui/apps/my-app/deploy", { method: "POST", body, headers: { "content-type": "application/x-www-form-urlencoded", ...headers } })).status, [body, headers]);
  assert.equal(answer, 403);
}
const token = await page.locator("input[name=token]").first().inputValue();
const foreign = await context.request.post("/ui/apps/my-app/deploy", { form: { token }, headers: { origin: "https://evil.example" } });
assert.equal(foreign.status(), 403);

await page.goto("/ui/audit");
await page.getByRole("cell", { name: "cancelled", exact: true }).waitFor();
await fit(page, "audit");
await picture(page, "serve-audit-light");
await page.goto("/ui/apps/my-app");
await fit(page, "app");
assert.equal((await page.goto("/ui/jobs/nothing")).status(), 404);
await fit(page, "not found");
await page.goto("/ui/");
await picture(page, "serve-overview-light");

// The same in the dark.
const dark = await open("dark");
await login(dark.page, "ada", process.env.PASSWORD);
await dark.page.getByRole("heading", { name: "Apps and jobs" }).waitFor();
await fit(dark.page, "overview in the dark");
await picture(dark.page, "serve-overview-dark");
await dark.page.getByRole("button", { name: "Deploy my-app" }).click();
await dark.page.getByRole("log").getByText("step 1").waitFor();
await fit(dark.page, "job in the dark");
await picture(dark.page, "serve-job-dark");
await dark.page.locator("#status", { hasText: "success" }).waitFor();
await dark.context.close();

// A viewer sees, and does nothing.
const viewer = await open();
await login(viewer.page, "bob", process.env.BOB);
await viewer.page.getByRole("heading", { name: "Apps and jobs" }).waitFor();
assert.equal(await viewer.page.getByRole("button", { name: /Deploy/ }).count(), 0);
const sneaked = await viewer.page.evaluate(async () => {
  const token = document.querySelector("input[name=token]").value;
  return (await fetch("/ui/apps/my-app/deploy", { method: "POST", body: new URLSearchParams({ token }) })).status;
});
assert.equal(sneaked, 403);
// On a narrow screen nothing runs out of it.
await viewer.page.setViewportSize({ width: 360, height: 700 });
assert.ok(await viewer.page.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth), "the page is wider than a phone");
await viewer.context.close();

// After logging out the cookie is worth nothing.
const kept = (await context.cookies())[0];
await page.getByRole("button", { name: "Log out" }).click();
await page.getByRole("heading", { name: "Log in" }).waitFor();
await context.addCookies([kept]);
await page.goto("/ui/");
assert.match(page.url(), /\/ui\/login$/);
assert.deepEqual(complaints, []);
await browser.close();
console.log("the page is as it has to be");
