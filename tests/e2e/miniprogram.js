// Plays a phone: runs the file that docs/miniprogram.md shows, with a `wx` of Node's own parts.
// Arguments: that file, the gateway, the sandbox WeChat, the appid, the user.
'use strict'

const assert = require('node:assert')
const fs = require('node:fs')

const [file, gateway, sandbox, appid, user] = process.argv.slice(2)
const stored = {}
const sent = []
let logins = 0
let ending = false

global.wx = {
  getStorageSync: (key) => stored[key] || '',
  setStorageSync: (key, value) => { stored[key] = value },
  login: ({ success, fail }) => {
    logins += 1
    fetch(`${sandbox}/sandbox/login`, { method: 'POST', body: JSON.stringify({ appid, user }) })
      .then((answer) => answer.json()).then(success, fail)
  },
  // As WeChat's own: a body of JSON both ways, no cookies, every status is a success.
  request: ({ url, method, data, header, success, fail }) => {
    sent.push(`${method || 'GET'} ${new URL(url).pathname}`)
    fetch(url, {
      method: method || 'GET',
      headers: { 'Content-Type': 'application/json', ...header },
      body: data && JSON.stringify(data),
    }).then(async (answer) => {
      const text = await answer.text()
      const names = Object.fromEntries(answer.headers)
      if (ending) names['X-Session-Expires-In'] = '5'
      success({ statusCode: answer.status, header: names, data: text && JSON.parse(text) })
    }).catch(fail)
  },
}

const code = fs.readFileSync(file, 'utf8').replace('https://api.example.com', gateway)
const ours = { exports: {} }
new Function('module', code)(ours)
const { request, login, phone } = ours.exports
const count = (what) => sent.filter((line) => line === what).length

const main = async () => {
  const answers = await Promise.all(Array.from({ length: 10 }, () => request('/required/echo.php')))
  answers.forEach((answer) => assert.strictEqual(answer.statusCode, 200))
  assert.strictEqual(logins, 1, 'ten requests without a token: one login')
  assert.ok(stored.wxgate_token)

  const first = stored.wxgate_token
  ending = true
  await Promise.all([request('/required/echo.php'), request('/required/echo.php')])
  ending = false
  while (stored.wxgate_token === first) await new Promise(setImmediate)
  assert.strictEqual(count('POST /wx/refresh'), 1, 'two answers near the end: one refresh')
  assert.strictEqual((await request('/required/echo.php')).statusCode, 200)

  assert.strictEqual((await request('/wx/logout', { method: 'POST' })).statusCode, 204)
  const after = await Promise.all(Array.from({ length: 5 }, () => request('/required/echo.php')))
  after.forEach((answer) => assert.strictEqual(answer.statusCode, 200))
  assert.strictEqual(logins, 2, 'five requests with a dead token: one login')

  const pressed = await fetch(`${sandbox}/sandbox/phone`, {
    method: 'POST', body: JSON.stringify({ appid, user }),
  }).then((answer) => answer.json())
  const before = stored.wxgate_token
  const number = await phone(pressed.code)
  assert.strictEqual(number.statusCode, 200)
  assert.ok(number.data.purePhoneNumber)
  assert.notStrictEqual(stored.wxgate_token, before)
  assert.strictEqual((await request('/required/echo.php')).statusCode, 200)

  await login()
  assert.strictEqual(logins, 3)
}

main().catch((error) => { console.error(error); process.exit(1) })
