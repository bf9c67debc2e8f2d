// A page of another site calls the gateway: node h5.js BASE SANDBOX APPID PORT OTHER
//
// Two sites of this script's own: the one on PORT is in `cors` of gateway.toml, the one on OTHER is not.
// Chromium asks by preflights and keeps answers from pages by its own rules. Prints one line a check,
// every secret as `secret …`, and `N passed, N failed`; exits with 1 if any failed.
'use strict';

const assert = require('node:assert/strict');
const http = require('node:http');
const { chromium } = require('playwright-core');

const [BASE, SANDBOX, APPID, PORT, OTHER] = process.argv.slice(2);
const checks = [];
const check = (name, test) => checks.push([name, test]);

/** A login code, as the page gets it from WeChat. */
async function newCode() {
  const body = JSON.stringify({ appid: APPID, user: 'alice' });
  const { code } = await (await fetch(`${SANDBOX}/sandbox/login`, { method: 'POST', body })).json();
  console.log(`secret ${code}`);
  return code;
}

/** What the page's own fetch gives it, or `kept from the page`. */
const call = (tab, path, options = {}) => tab.evaluate(async ([address, init]) => {
  try {
    const answer = await fetch(address, init);
    const seen = (name) => answer.headers.get(name);
    return {
      status: answer.status, id: seen('x-request-id'), inner: seen('x-powered-by'), body: await answer.json(),
    };
  } catch {
    return 'kept from the page';
  }
}, [BASE + path, options]);

const json = (value) => ({
  method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(value),
});
const bearing = (token, more = {}) => ({ ...more, headers: { Authorization: `Bearer ${token}` } });

async function logIn(tab) {
  const { status, body } = await call(tab, '/wx/auth', json({ code: await newCode(), appid: APPID }));
  assert.equal(status, 200);
  body.access_token.split('.').forEach((part) => console.log(`secret ${part}`));
  return body.access_token;
}

check('a page logs in, calls the backend with its token and refreshes it', async (tab) => {
  const token = await logIn(tab);
  for (const method of ['GET', 'PUT', 'DELETE']) {
    const { status, id, inner, body } = await call(tab, '/required/echo.php', bearing(token, { method }));
    assert.equal(status, 200);
    assert.equal(body.server.REQUEST_METHOD, method);
    assert.match(body.server.HTTP_X_WX_OPENID, /^o[\w-]{20,}$/);
    assert.ok(id, 'X-Request-Id can be read');
    assert.equal(inner, null, 'what is not exposed cannot');
  }
  assert.equal((await call(tab, '/wx/session', bearing(token))).body.active, true);
  const { body } = await call(tab, '/wx/refresh', bearing(token, { method: 'POST' }));
  body.access_token.split('.').forEach((part) => console.log(`secret ${part}`));
  assert.equal((await call(tab, '/required/echo.php', bearing(body.access_token))).status, 200);
});

check('a page reads why it is refused', async (tab) => {
  const missing = await call(tab, '/required/echo.php');
  assert.deepEqual([missing.status, missing.body.error], [401, 'unauthorized']);
  const wrong = await call(tab, '/required/echo.php', bearing('a.b.c'));
  assert.deepEqual([wrong.status, wrong.body.error], [401, 'invalid_token']);
  const code = await call(tab, '/wx/auth', json({ code: 'used-up', appid: APPID }));
  assert.deepEqual([code.status, code.body.error], [400, 'invalid_grant']);
});

check('a page of a site that is not named gets nothing, token or not', async (tab, stranger) => {
  const token = await logIn(tab);
  for (const [path, options] of [
    ['/required/echo.php'],
    ['/required/echo.php', bearing(token)],
    ['/required/echo.php', bearing(token, { method: 'PUT' })],
    ['/wx/session', bearing(token)],
    ['/wx/auth', json({ code: await newCode(), appid: APPID })],
  ]) {
    assert.equal(await call(stranger, path, options), 'kept from the page', path);
  }
  assert.equal(await call(tab, '/public/echo.php'), 'kept from the page', 'a route without cors');
});

function serve(port) {
  const page = (_, answer) => answer.writeHead(200, { 'Content-Type': 'text/html' }).end('<body>a page');
  return new Promise((done) => { const site = http.createServer(page).listen(port, '127.0.0.1', () => done(site)); });
}

async function run() {
  const sites = [await serve(PORT), await serve(OTHER)];
  const chrome = await chromium.launch({
    executablePath: '/usr/bin/chromium',
    // QUIC, updates and the like would call home.
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync',
      '--disable-background-networking', '--disable-component-update'],
  });
  let failed = 0;
  for (const [name, test] of checks) {
    const browser = await chrome.newContext();
    await browser.grantPermissions(['local-network-access']);
    try {
      const [tab, stranger] = [await browser.newPage(), await browser.newPage()];
      await tab.goto(`http://localhost:${PORT}/`);
      await stranger.goto(`http://localhost:${OTHER}/`);
      await test(tab, stranger);
      console.log(`ok ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`not ok ${name}: ${error.stack}`);
    }
    await browser.close();
  }
  await chrome.close();
  sites.forEach((site) => site.close());
  console.log(`${checks.length - failed} passed, ${failed} failed`);
  process.exitCode = failed ? 1 : 0;
}

run();
