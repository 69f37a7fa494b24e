/**
 * What people do on the page, done in Chromium with a camera that is made up.
 *
 *     node tests/page/stories.mjs URL [FOLDER FOR SCREENSHOTS]
 *
 * Needs `playwright-core` and `axe-core` in the folder that MLX_WS_NODE_MODULES names, and a server with
 * the demo model at URL. Prints a line a story; exits with 1 if one of them failed.
 */

import assert from "node:assert/strict";
import { execSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const [address, pictures] = process.argv.slice(2);
const modules = createRequire(join(process.env.MLX_WS_NODE_MODULES ?? process.cwd(), "/"));
const { chromium } = modules("playwright-core");
const axe = readFileSync(modules.resolve("axe-core/axe.min.js"), "utf8");
const PATIENCE = 60_000;

const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--use-fake-device-for-media-stream",
  "--use-fake-ui-for-media-stream", "--auto-select-desktop-capture-source=Entire screen",
];

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });
let failures = 0;

async function story(name, options, tell) {
  // A page's own scripts only: axe is put in by hand, so that page alone may do without the policy.
  const page = await browser.newPage({ viewport: { width: 1280, height: 860 }, ...options });
  page.setDefaultTimeout(PATIENCE);
  const troubles = [];
  page.on("pageerror", (error) => troubles.push(error.message));
  page.on("console", (message) => message.type() === "error" && !message.text().includes("WebSocket connection") && troubles.push(message.text()));
  try {
    await page.goto(address);
    await page.getByText("Connected", { exact: true }).waitFor();
    await tell(page);
    assert.deepEqual(troubles, []);
    console.log(`✓ ${name}`);
  } catch (error) {
    failures += 1;
    console.log(`✗ ${name}\n${error.stack}\n${troubles.join("\n")}`);
  } finally {
    await page.close();
  }
}

const analysed = (page, least = 1) =>
  page.waitForFunction((count) => Number(document.querySelector("#count-analysed").textContent) >= count, least);

async function violations(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document));
  return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`);
}

async function keep(page, name) {
  if (pictures) await page.screenshot({ path: join(pictures, `${name}.png`) });
}

const drop = (page) =>
  page.evaluate(async () => {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 300;
    const pen = canvas.getContext("2d");
    pen.fillStyle = "white";
    pen.fillRect(0, 0, 300, 300);
    pen.fillStyle = "red";
    pen.arc(150, 150, 90, 0, 7);
    pen.fill();
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([blob], "circle.png", { type: "image/png" }));
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
  });

for (const scheme of ["light", "dark"]) {
  await story(`the drawn scene is described (${scheme})`, { colorScheme: scheme, bypassCSP: true }, async (page) => {
    await page.keyboard.press("Escape");
    await page.keyboard.press("d");
    await analysed(page, 3);
    await page.locator("#question").fill("What is the capital of France?");
    await page.keyboard.press("Enter");
    await page.locator(".entry.reply .figures").waitFor();
    assert.match(await page.locator(".entry.seen p").first().textContent(), /circle|square|triangle|star|digit|number/i);
    assert.deepEqual(await violations(page), []);
    await keep(page, `page-${scheme}`);
    for (const panel of ["settings", "log", "export", "keys"]) {
      await page.locator(`[data-opens=${panel}]`).click();
      assert.deepEqual(await violations(page), [], panel);
      await keep(page, `panel-${panel}-${scheme}`);
      await page.keyboard.press("Escape");
    }
  });
}

await story("the page works on a phone", { viewport: { width: 390, height: 844 }, deviceScaleFactor: 1, bypassCSP: true }, async (page) => {
  await page.locator("#source-scene").click();
  await analysed(page);
  assert.deepEqual(await violations(page), []);
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 390);
  await keep(page, "page-phone");
});

await story("a camera is described, and stopped", {}, async (page) => {
  await page.locator("#source-camera").click();
  await analysed(page);
  assert.equal(await page.locator("#source-camera").getAttribute("aria-pressed"), "true");
  await page.locator("#source-stop").click();
  assert.ok(await page.locator("#invitation").isVisible());
});

await story("a dropped picture is asked about", {}, async (page) => {
  await drop(page);
  await page.locator(".attached img").waitFor();
  await page.locator("#question").fill("Which shape is this?");
  await page.locator("#send").click();
  await page.locator(".entry.reply .figures").waitFor();
  assert.match(await page.locator(".entry.reply p").textContent(), /circle/i);
});

await story("a reply is stopped with Esc", {}, async (page) => {
  await page.locator("#question").fill("Tell me a very long story about the sea.");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.querySelector(".entry.reply p")?.textContent);
  await page.keyboard.press("Escape");
  await page.getByText("stopped").waitFor();
});

await story("settings are applied, and a wrong one is explained", {}, async (page) => {
  await page.locator("[data-opens=settings]").click();
  await page.locator("input[name=temperature]").fill("0");
  await page.locator("#apply").click();
  await page.locator("#settings").waitFor({ state: "hidden" });
  await page.locator("[data-opens=settings]").click();
  assert.equal(await page.locator("input[name=temperature]").inputValue(), "0");
  await page.locator("input[name=maxOutputTokens]").fill("99999");
  await page.locator("#apply").click();
  await page.getByText(/maxOutputTokens.*must be/).waitFor();
});

await story("a talk is exported", {}, async (page) => {
  await page.locator("#source-scene").click();
  await analysed(page, 2);
  for (const [kind, wanted] of [["srt", /^1\n00:00:00,000 --> 00:00:0/], ["md", /^# Talk/], ["json", /^\[/]]) {
    await page.locator("[data-opens=export]").click();
    const [download] = await Promise.all([page.waitForEvent("download"), page.locator(`[data-export=${kind}]`).click()]);
    assert.match(readFileSync(await download.path(), "utf8"), wanted);
    await page.keyboard.press("Escape");
  }
});

// The last one, for it ends the server. MLX_WS_RESTART is a command that does so and comes back once another one runs.
if (process.env.MLX_WS_RESTART) {
  await story("the page comes back after the server was restarted", {}, async (page) => {
    await page.locator("#source-scene").click();
    await analysed(page);
    execSync(process.env.MLX_WS_RESTART, { stdio: "ignore" });
    await page.getByText("The server was restarted").waitFor();
    const before = Number(await page.locator("#count-analysed").textContent());
    await analysed(page, before + 1);
  });
}

await browser.close();
process.exit(failures ? 1 : 0);
