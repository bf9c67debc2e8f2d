// An operator at the dashboard: node dashboard.js ADMIN TOKEN OPENID PICTURES
//
// ADMIN is the admin listener, which wants TOKEN; OPENID has two sessions, and somebody else one.
// Pictures of what is seen go into the folder PICTURES. Ends with `done`, or with the stack of what
// failed and exit status 1.
'use strict';

const assert = require('node:assert/strict');
const { chromium } = require('playwright-core');

const [ADMIN, TOKEN, OPENID, PICTURES] = process.argv.slice(2);
const PATIENCE = 30_000;

async function run(tab) {
  const troubles = [];
  tab.on('pageerror', (error) => troubles.push(error.message));
  const picture = (name) => tab.screenshot({ path: `${PICTURES}/${name}.png`, fullPage: true });
  const rows = () => tab.locator('#sessions tr:has(td button)');
  const become = async (count) => {
    await tab.waitForFunction((wanted) =>
      document.querySelectorAll('#sessions td button').length === wanted, count);
  };

  await tab.goto(ADMIN);
  await tab.fill('#token', 'not the token');
  await tab.click('button');
  await tab.waitForSelector('#wrong:not([hidden])');
  await picture('token');
  await tab.fill('#token', TOKEN);
  await tab.click('button');

  await tab.waitForSelector('#routes td');
  await tab.waitForFunction(() => document.getElementById('ready').textContent === 'ready');
  assert.equal(await tab.textContent('#trouble'), '');
  await become(3);
  await picture('dashboard');

  tab.on('dialog', (dialog) => dialog.accept());
  assert.ok(await tab.isHidden('#end-all'));
  await tab.fill('#openid', OPENID);
  await tab.click('#find button');
  await become(2);
  assert.ok((await rows().first().textContent()).includes(OPENID));
  await rows().first().locator('button').click();
  await become(1);
  await tab.click('#end-all');
  await become(0);
  await tab.fill('#openid', '');
  await tab.click('#find button');
  await become(1);
  await tab.fill('#openid', '?');
  await tab.click('#find button');
  await tab.waitForFunction(() =>
    document.getElementById('told').textContent.includes('6 to 64 letters'));
  // A reload asks for nothing: the token is kept for this tab.
  await tab.reload();
  await become(1);
  await tab.setViewportSize({ width: 400, height: 800 });
  await picture('narrow');
  assert.deepEqual(troubles, []);
}

(async () => {
  const chrome = await chromium.launch({
    executablePath: '/usr/bin/chromium',
    // QUIC, updates and the like would call home.
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync',
      '--disable-background-networking', '--disable-component-update'],
  });
  const tab = await chrome.newPage({ viewport: { width: 1200, height: 800 } });
  tab.setDefaultTimeout(PATIENCE);
  try {
    await run(tab);
    console.log('done');
  } catch (error) {
    console.log(error.stack);
    process.exitCode = 1;
  }
  await chrome.close();
})();
