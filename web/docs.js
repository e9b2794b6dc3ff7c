// Shows /openapi.json of the server that this page comes from.

import { code, element, inline, markdown } from "./markdown.js";

const METHODS = ["get", "post", "put", "patch", "delete"];
const main = document.getElementById("main");

let api;

start().catch((error) => {
  const failed = document.getElementById("failed");
  failed.textContent = `The document could not be read: ${error.message}`;
  failed.hidden = false;
}).finally(() => main.removeAttribute("aria-busy"));

async function start() {
  const answer = await fetch("/openapi.json");
  if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
  api = await answer.json();
  const version = document.getElementById("version");
  version.textContent = api.info.version;
  version.hidden = false;
  const groups = api.tags.map((tag) => ({ tag, operations: operations(tag.name) }));
  main.append(element("section", { class: "group", "aria-label": "About" }, markdown(api.info.description)));
  main.append(...groups.map(group));
  main.append(schemas());
  contents(groups);
  document.getElementById("filter").addEventListener("input", ({ target }) => filter(target.value));
  addEventListener("hashchange", open);
  open();
}

function operations(tag) {
  return Object.entries(api.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]?.tags.includes(tag)).map((method) => ({ method, path, ...item[method] })));
}

/** What the address points at is opened, and shown. */
function open() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!(target instanceof HTMLDetailsElement)) return;
  target.open = true;
  target.scrollIntoView();
}

function contents(groups) {
  document.getElementById("contents").append(
    ...groups.map(({ tag, operations }) => element("section", {},
      element("h2", {}, tag.name),
      element("ul", {}, operations.map((operation) => element("li", {},
        element("a", { href: `#${operation.operationId}` }, badge(operation.method), element("span", {}, operation.summary))))))),
    element("p", { class: "none hint", role: "status", hidden: true }, "No endpoint of that name."));
}

function filter(text) {
  const wanted = text.trim().toLowerCase();
  let any = false;
  for (const details of document.querySelectorAll(".operation")) {
    const matches = details.querySelector("summary").textContent.toLowerCase().includes(wanted);
    details.hidden = !matches;
    document.querySelector(`#contents a[href="#${details.id}"]`).parentElement.hidden = !matches;
    any ||= matches;
  }
  for (const holder of document.querySelectorAll("#contents section, .operations")) {
    holder.hidden = !holder.querySelector("li:not([hidden]), .operation:not([hidden])");
  }
  document.querySelector(".none").hidden = any;
}

function group({ tag, operations }) {
  return element("section", { class: "group operations" },
    element("h2", {}, tag.name), markdown(tag.description), operations.map(operation));
}

function operation(described) {
  const { method, path, operationId, summary, description, parameters = [], requestBody, responses } = described;
  return element("details", { class: "operation", id: operationId, "data-testid": operationId },
    element("summary", {}, badge(method), element("code", {}, path), element("span", { class: "says" }, summary)),
    element("div", { class: "inside" },
      description ? markdown(description) : null,
      security(described.security),
      parameters.length ? [element("h3", {}, "Parameters"), members(parameters.map((parameter) => ({
        name: parameter.name,
        place: parameter.in,
        required: parameter.required,
        schema: parameter.schema,
        description: parameter.description,
      })))] : null,
      requestBody ? [element("h3", {}, "Body"), Object.entries(requestBody.content).map(content)] : null,
      element("h3", {}, "Answers"),
      Object.entries(responses).map(([status, response]) => answer(status, resolve(response)))));
}

function badge(method) {
  return element("span", { class: "method", "data-method": method }, method.toUpperCase());
}

const WAYS = {
  bearer: "`Authorization: Bearer`",
  access_token: "`?access_token=`",
  cookie: "the cookie `access_token`",
  ticket: "`?ticket=`",
};

function security(requirements) {
  const ways = (requirements ?? []).flatMap((requirement) => {
    const [name] = Object.keys(requirement);
    return name ? WAYS[name] ?? name : "none, for some answers";
  });
  return ways.length ? [element("h3", {}, "Token"), element("p", { class: "text" }, element("span", {}, inline(ways.join(", "))))] : null;
}

function answer(status, { description, headers, content: bodies }) {
  return element("div", { class: "answer" },
    element("div", { class: "answer-head" },
      element("span", { class: "status", "data-class": status[0] }, status), markdown(description)),
    element("div", { class: "answer-body" },
      headers ? members(Object.entries(headers).map(([name, header]) => ({ name, place: "header", ...header }))) : null,
      Object.entries(bodies ?? {}).map(content)));
}

/** A body: its media type, its schema, examples. */
function content([mediaType, { schema, example, examples }]) {
  const resolved = schema ? resolve(schema) : {};
  const own = example !== undefined ? [example] : Object.values(examples ?? {}).map(({ value }) => value);
  // Problems look alike everywhere.
  const all = mediaType === "application/problem+json" ? [] : own.length ? own : examplesOf(resolved);
  return element("div", {},
    element("p", {}, element("code", {}, mediaType), schema ? [" ", type(schema)] : null),
    all.map((value) => code(typeof value === "string" ? value : pretty(value), `Example, ${mediaType}`)));
}

function examplesOf(schema) {
  return schema.examples ?? (schema.example === undefined ? [] : [schema.example]);
}

function members(rows) {
  const has = rows.some(({ place }) => place);
  return element("table", { class: "members" },
    element("thead", {}, element("tr", {}, ["Name", "Type", ""].map((name) =>
      name ? element("th", { scope: "col" }, name) : element("td", {})))),
    element("tbody", {}, rows.map(({ name, place, required, schema, description }) => element("tr", {},
      element("th", { scope: "row" }, name, required ? element("span", { class: "required" }, "required") : null),
      element("td", {}, type(schema ?? {})),
      element("td", {}, has ? element("span", { class: "hint" }, `${place}. `) : null, inline(description ?? ""), limits(schema ?? {}))))));
}

function limits(schema) {
  const { minimum, maximum, default: standard, maxItems, maxLength, enum: values } = { ...resolve(schema), ...schema };
  const said = [];
  if (maximum !== undefined) said.push(`${minimum ?? 0} to ${maximum}`);
  if (maxItems !== undefined) said.push(`at most ${maxItems}`);
  if (maxLength !== undefined) said.push(`at most ${maxLength} characters`);
  if (values) said.push(`one of ${values.map((value) => `\`${value}\``).join(", ")}`);
  if (standard !== undefined) said.push(`by default \`${standard}\``);
  return said.length ? element("span", { class: "hint" }, inline(` (${said.join("; ")})`)) : null;
}

/** A schema in words; what has a name is a link to it. */
function type(schema) {
  if (schema.$ref) {
    const name = schema.$ref.split("/").at(-1);
    return [element("a", { href: `#schema-${name}` }, name)];
  }
  const several = schema.oneOf ?? schema.anyOf;
  if (several) return several.flatMap((one, index) => [index ? " or " : "", ...type(one)]);
  if (schema.allOf) return type(schema.allOf[0]);
  const types = [schema.type ?? "any"].flat();
  return types.flatMap((name, index) => {
    const joint = index ? " or " : "";
    if (name === "array") return [joint, "list of ", ...type(schema.items ?? {})];
    if (name === "object" && typeof schema.additionalProperties === "object" && !schema.properties) {
      return [joint, "map to ", ...type(schema.additionalProperties)];
    }
    return [joint, name === "null" ? "nothing" : name];
  });
}

function schemas() {
  return element("section", { class: "group" }, element("h2", {}, "Schemas"),
    Object.entries(api.components.schemas).map(([name, schema]) =>
      element("details", { class: "schema", id: `schema-${name}` },
        element("summary", {}, element("code", {}, name)),
        element("div", { class: "inside" },
          schema.description ? markdown(schema.description) : null,
          shape(schema),
          examplesOf(schema).map((value) => code(pretty(value), `Example of ${name}`))))));
}

/** The members of a schema, with those of the schemas that it is made of. */
function shape(schema) {
  const rows = Object.entries(schema.properties ?? {}).map(([name, member]) =>
    ({ name, required: schema.required?.includes(name), schema: member, description: member.description ?? "" }));
  const { allOf: all = [], oneOf, anyOf } = schema;
  const either = oneOf ?? anyOf;
  if (!rows.length && !all.length && !either) {
    if (schema.required) return element("p", {}, "with ", schema.required.map((name) => element("code", {}, name)));
    return element("p", {}, element("code", {}, type(schema)), limits(schema));
  }
  return element("div", { class: "text" },
    rows.length ? members(rows) : null,
    all.map((part) => shape(resolve(part))),
    either ? [
      element("p", { class: "hint" }, oneOf ? "One of these:" : "At least one of these:"),
      element("ul", { class: "parts" }, either.map((part) => element("li", {},
        part.$ref ? type(part) : [part.description ? markdown(part.description) : null, shape(part)]))),
    ] : null);
}

/** JSON with the type first, which says what the rest is. */
function pretty(value) {
  const ordered = (key, inner) => {
    if (inner === null || typeof inner !== "object" || Array.isArray(inner) || !("type" in inner)) return inner;
    const { type: first, ...rest } = inner;
    return { type: first, ...rest };
  };
  return JSON.stringify(value, ordered, 2);
}

function resolve(value) {
  if (!value.$ref) return value;
  return value.$ref.slice(2).split("/").reduce((within, key) => within[key], api);
}
