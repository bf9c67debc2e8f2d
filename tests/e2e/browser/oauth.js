// A browser logs in: node oauth.js BASE SANDBOX OFFICIAL_ACCOUNT WEBSITE
//
// BASE is the gateway's own site, SANDBOX the stand-in WeChat. Chromium follows the redirects, keeps
// the cookies and applies SameSite by its own rules; nothing here imitates a browser. Prints one line
// a check, every secret that it came to know as `secret …`, and `N passed, N failed`; exits with 1 if
// any failed.
'use strict';

const assert = require('node:assert/strict');
const { chromium } = require('playwright-core');

const [BASE, SANDBOX, ACCOUNT, WEBSITE] = process.argv.slice(2);
const SITE = new URL(BASE);
const SESSION = 'wxgate_session';
const PAGE = '/account/echo.php';
const SECURE = SITE.protocol === 'https:';
const PATIENCE = 30_000;

const checks = [];
const check = (name, test) => checks.push([name, test]);
const secrets = new Set();
let chrome;

/** A browser of somebody's own: no cookie and no history is shared with another. */
async function newBrowser() {
  const browser = await chrome.newContext({ ignoreHTTPSErrors: true });
  browser.setDefaultTimeout(PATIENCE);
  browser.on('request', (request) => rememberSecrets(request.url()));
  // A page of another site may speak to this machine, where the gateway is.
  await browser.grantPermissions(['local-network-access']);
  return browser;
}

function rememberSecrets(address) {
  const { pathname, searchParams } = new URL(address);
  if (pathname !== '/wx/oauth/callback') return;
  for (const value of [searchParams.get('code'), searchParams.get('state')]) {
    if (value?.length >= 8) secrets.add(value);
  }
}

/** Opens a page and answers WeChat's question. */
async function logIn(tab, path, who) {
  await tab.goto(BASE + path);
  await decide(tab, who);
}

async function decide(tab, { user = 'alice', button = 'allow' } = {}) {
  await tab.fill('#user', user);
  await Promise.all([tab.waitForEvent('load'), tab.click(`#${button}`)]);
}

const login = (query) => `/wx/oauth/login?${new URLSearchParams(query)}`;
const consent = (page) => login({ appid: ACCOUNT, scope: 'snsapi_userinfo', return_to: page });
const shown = async (tab) => JSON.parse(await tab.textContent('pre'));
const cookies = async (browser) => browser.cookies(`${BASE}/`);

async function sessionCookie(browser) {
  const found = (await cookies(browser)).filter((cookie) => cookie.name === SESSION);
  assert.ok(found.length < 2, 'one session cookie at most');
  if (found[0]) found[0].value.split('.').forEach((part) => secrets.add(part));
  return found[0];
}

/** The tab shows the backend's page, and the backend was told this user's identity. */
async function assertLoggedIn(tab, path = PAGE) {
  // A browser may take WeChat's own fragment along through the redirects.
  assert.equal(tab.url().replace(/#wechat_redirect$/, ''), BASE + path);
  const { server } = await shown(tab);
  const openid = server.HTTP_X_WX_OPENID;
  assert.match(openid, /^o[\w-]{20,}$/);
  assert.ok(!server.HTTP_COOKIE?.includes(SESSION), 'the backend never sees the token');
  const told = await tab.evaluate(async () => (await fetch('/wx/session')).json());
  assert.equal(told.openid, openid);
  return { ...server, openid };
}

async function assertRefused(tab, browser, status, error) {
  const body = await shown(tab);
  assert.equal(body.error, error);
  assert.ok(tab.url().startsWith(`${BASE}/wx/oauth/callback?`), tab.url());
  assert.equal(await sessionCookie(browser), undefined);
  assert.equal(await tab.evaluate(() => performance.getEntriesByType('navigation')[0].responseStatus), status);
}

/** The address with which WeChat sends a browser back, which then does not go there. */
async function wayBack(browser, address, user = 'alice') {
  const tab = await browser.newPage();
  await tab.goto(BASE + address);
  await tab.fill('#user', user);
  const button = await tab.$eval('form', (form) => `${form.action}?${new URLSearchParams(new FormData(form))}`);
  const answer = await fetch(`${button}&decision=allow`, { redirect: 'manual' });
  const back = answer.headers.get('location');
  assert.ok(back.startsWith(`${BASE}/wx/oauth/callback?`), back);
  rememberSecrets(back);
  await tab.close();
  return back;
}

check('a page without a session leads to WeChat and, with the user known, back to it', async (browser) => {
  const tab = await browser.newPage();
  const asked = `${PAGE}?a=1&b=%2Fc%3Fd`;
  await tab.goto(BASE + asked);
  assert.ok(tab.url().startsWith(`${SANDBOX}/connect/oauth2/authorize?appid=${ACCOUNT}&`), tab.url());
  assert.match(await tab.textContent('body'), /snsapi_base/);
  assert.equal(await sessionCookie(browser), undefined);
  await decide(tab);
  const seen = await assertLoggedIn(tab, asked);
  assert.equal(seen.HTTP_X_WX_APPID, ACCOUNT);
  assert.equal(seen.HTTP_X_WX_UNIONID, undefined, 'a silent login learns no more');
});

check('the session cookie is out of reach of scripts, other sites and other hosts', async (browser) => {
  const tab = await browser.newPage();
  await logIn(tab, PAGE);
  const { name, domain, path, httpOnly, secure, sameSite, expires } = await sessionCookie(browser);
  assert.deepEqual(
    { name, domain, path, httpOnly, secure, sameSite },
    { name: SESSION, domain: SITE.hostname, path: '/', httpOnly: true, secure: SECURE, sameSite: 'Lax' },
  );
  const hours = (expires - Date.now() / 1000) / 3600;
  assert.ok(hours > 1.9 && hours <= 2, `${hours} h`);
  assert.equal(await tab.evaluate(() => document.cookie), '');
});

check('the cookie of a login goes to the callback alone and says nothing to anybody', async (browser) => {
  const tab = await browser.newPage();
  await tab.goto(BASE + PAGE);
  assert.deepEqual(await cookies(browser), []);
  const [kept, ...more] = await browser.cookies(`${BASE}/wx/oauth/callback`);
  assert.equal(more.length, 0);
  assert.ok(kept.name.startsWith('wxgate_login_'));
  assert.deepEqual([kept.httpOnly, kept.secure, kept.sameSite], [true, SECURE, 'Lax']);
  assert.ok(kept.expires - Date.now() / 1000 <= 600);
  assert.ok(!Buffer.from(kept.value, 'base64url').includes('echo.php'), 'sealed');
});

check('with snsapi_userinfo the user is asked, and the backend learns the unionid', async (browser) => {
  const tab = await browser.newPage();
  await tab.goto(BASE + consent(PAGE));
  assert.match(await tab.textContent('body'), /snsapi_userinfo/);
  await decide(tab);
  assert.match((await assertLoggedIn(tab)).HTTP_X_WX_UNIONID, /^o[\w-]{20,}$/);
});

check('a website shows its QR code', async (browser) => {
  const tab = await browser.newPage();
  await tab.goto(BASE + '/website/echo.php');
  assert.ok(tab.url().startsWith(`${SANDBOX}/connect/qrconnect?appid=${WEBSITE}&`), tab.url());
  await decide(tab, { user: '小明' });
  const seen = await assertLoggedIn(tab, '/website/echo.php');
  assert.equal(seen.HTTP_X_WX_APPID, WEBSITE);
  await tab.goto(BASE + PAGE);
  assert.equal((await shown(tab)).error, 'access_denied', 'a session of another app');
});

check('who refuses is not logged in, and may think better of it with the back button', async (browser) => {
  for (const button of ['refuse', 'snapshot']) {
    const tab = await browser.newPage();
    await logIn(tab, consent(PAGE), { button });
    await assertRefused(tab, browser, 403, 'access_denied');
    await tab.close();
  }
  const tab = await browser.newPage();
  await logIn(tab, consent(PAGE), { button: 'refuse' });
  await assertRefused(tab, browser, 403, 'access_denied');
  await tab.goBack();
  await decide(tab);
  await assertLoggedIn(tab);
});

check('the back button after a login leads through WeChat to the page again', async (browser) => {
  const tab = await browser.newPage();
  await logIn(tab, PAGE);
  const { openid } = await assertLoggedIn(tab);
  const before = await sessionCookie(browser);
  await tab.goBack();
  assert.ok(tab.url().startsWith(SANDBOX), tab.url());
  await tab.goForward();
  assert.equal((await assertLoggedIn(tab)).openid, openid);
  // WeChat gives a new code for the old state: the login is complete, and the session stays.
  await tab.goBack();
  await decide(tab, { user: 'mallory' });
  assert.equal((await shown(tab)).error, 'invalid_request');
  assert.equal((await sessionCookie(browser)).value, before.value);
  await tab.goto(BASE + PAGE);
  assert.equal((await assertLoggedIn(tab)).openid, openid);
});

check('a callback that is opened twice, as WeChat likes to, gives the same session', async (browser) => {
  const back = await wayBack(browser, PAGE);
  const tabs = [await browser.newPage(), await browser.newPage()];
  await Promise.all(tabs.map((tab) => tab.goto(back)));
  const people = [await assertLoggedIn(tabs[0]), await assertLoggedIn(tabs[1])];
  assert.equal(people[0].openid, people[1].openid);
  const before = await sessionCookie(browser);
  await tabs[0].goto(back);
  await assertLoggedIn(tabs[0]);
  assert.equal((await sessionCookie(browser)).value, before.value);
});

check('two logins at once in one browser do not disturb each other', async (browser) => {
  const first = await wayBack(browser, `${PAGE}?tab=1`);
  const second = await wayBack(browser, consent(`${PAGE}?tab=2`));
  const tab = await browser.newPage();
  await tab.goto(second);
  await assertLoggedIn(tab, `${PAGE}?tab=2`);
  await tab.goto(first);
  await assertLoggedIn(tab, `${PAGE}?tab=1`);
});

check('a callback of another browser logs nobody in', async (browser) => {
  const mallory = await newBrowser();
  const back = await wayBack(mallory, PAGE, 'mallory');
  const tab = await browser.newPage();
  await tab.goto(back);
  await assertRefused(tab, browser, 400, 'invalid_request');
  // Not even where the victim has a login of her own under way.
  await tab.goto(BASE + PAGE);
  const state = new URL(tab.url()).searchParams.get('state');
  await tab.goto(back);
  await assertRefused(tab, browser, 400, 'invalid_request');
  await tab.goto(`${BASE}/wx/oauth/callback?state=${state}&code=`);
  await assertRefused(tab, browser, 403, 'access_denied');
  const theirs = await mallory.newPage();
  await theirs.goto(back);
  await assertLoggedIn(theirs);
  await mallory.close();
});

check('whatever return_to says, the browser stays on this site', async (browser) => {
  const tab = await browser.newPage();
  await logIn(tab, PAGE);
  const evil = 'evil.test';
  const wishes = [
    `https://${evil}/`, `//${evil}`, `///${evil}`, `/\\${evil}`, `\\\\${evil}`, `/\t/${evil}`, `\t//${evil}`,
    `/\n/${evil}`, `/%09/${evil}`, `/%5c${evil}`, `/%2f${evil}`, `/%252f${evil}`, `%2f%2f${evil}`, `/.//${evil}`,
    `/..//${evil}`, `/a/..//${evil}`, `/%2e%2e//${evil}`, `/;//${evil}`, `javascript:alert(1)`, `data:text/html,x`,
    `https:${evil}`, `https:/${evil}`, `HtTpS://${evil}`, `@${evil}`, `.${evil}`, `:80@${evil}`, `/@${evil}`,
    `${SITE.host}@${evil}`, `//${SITE.host}@${evil}/`, `//${SITE.host}\\@${evil}`, `/\u2028/${evil}`, `/\uff0f${evil}`,
    `//\u3002${evil}`, `/?x=//${evil}`, `/#//${evil}`, `?//${evil}`, `#//${evil}`, `/\u0000/${evil}`, ` //${evil}`,
    `/ /${evil}`, `/account/echo.php?next=https://${evil}`, `/account/./echo.php`, `/account/%65cho.php`,
  ];
  let accepted = 0;
  for (const wish of wishes) {
    const begun = await browser.request.get(BASE + login({ appid: ACCOUNT, return_to: wish }), { maxRedirects: 0 });
    if (begun.status() === 400) continue;
    accepted += 1;
    assert.equal(begun.status(), 302, wish);
    // The sandbox knows this browser by now and sends it straight back.
    await tab.goto(begun.headers().location);
    assert.equal(new URL(tab.url()).origin, SITE.origin, wish);
  }
  assert.ok(accepted >= 5 && accepted < wishes.length / 2, `${accepted} of ${wishes.length} accepted`);
});

check('logout ends the session and clears the cookie', async (browser) => {
  const tab = await browser.newPage();
  await logIn(tab, PAGE);
  const { value } = await sessionCookie(browser);
  assert.equal(await tab.evaluate(async () => (await fetch('/wx/logout', { method: 'POST' })).status), 204);
  assert.equal(await sessionCookie(browser), undefined);
  const kept = await browser.request.get(BASE + PAGE, { headers: { Authorization: `Bearer ${value}` } });
  assert.equal(kept.status(), 401, 'the token is dead, not only forgotten');
  // WeChat knows the user: a silent login asks nothing this time.
  await tab.goto(BASE + PAGE);
  await assertLoggedIn(tab);
});

check('a page of another site cannot use the cookie', async (browser) => {
  const tab = await browser.newPage();
  await logIn(tab, PAGE);
  const attacks = [
    (to) => {
      const form = document.createElement('form');
      Object.assign(form, { method: 'POST', action: to });
      document.body.append(form);
      form.submit();
    },
    (to) => fetch(to, { method: 'POST', mode: 'no-cors', credentials: 'include' })
      .then(() => location.reload()),
  ];
  // Another site; and another port of this host, which SameSite takes for the same site.
  const neighbour = `${SITE.protocol}//${SITE.hostname}:1`;
  const evil = await browser.newPage();
  for (const origin of [SANDBOX, neighbour]) {
    for (const attack of attacks) {
      await evil.route(`${origin}/evil`, (route) => route.fulfill({ contentType: 'text/html', body: '<body>evil' }));
      await evil.goto(`${origin}/evil`);
      await Promise.all([evil.waitForEvent('load'), evil.evaluate(attack, `${BASE}/wx/logout`)]);
      await tab.goto(BASE + PAGE);
      await assertLoggedIn(tab);
    }
  }
});

async function run() {
  chrome = await chromium.launch({
    executablePath: '/usr/bin/chromium',
    // QUIC, updates and the like would call home.
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync',
      '--disable-background-networking', '--disable-component-update'],
  });
  let failed = 0;
  for (const [name, test] of checks) {
    const browser = await newBrowser();
    const began = Date.now();
    try {
      await test(browser);
      console.log(`ok ${name} (${Date.now() - began} ms)`);
    } catch (error) {
      failed += 1;
      console.log(`not ok ${name}: ${error.stack}`);
    }
    await browser.close();
  }
  await chrome.close();
  secrets.forEach((secret) => console.log(`secret ${secret}`));
  console.log(`${checks.length - failed} passed, ${failed} failed`);
  process.exitCode = failed ? 1 : 0;
}

run();
