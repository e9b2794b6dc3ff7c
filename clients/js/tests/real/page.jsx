// A page as an application would write it: `?session=…` or `?chat=…`.

import { createRoot } from "react-dom/client";
import { MessageStream, NotifyProvider } from "@notify-server/client/react";

const getToken = async () => (await fetch("/token")).text();
const wanted = new URLSearchParams(location.search);
const target = wanted.has("chat") ? { chatId: wanted.get("chat") } : { sessionId: wanted.get("session") };

createRoot(document.getElementById("page")).render(
  <NotifyProvider url={location.origin} getToken={getToken} maxAttempts={10}>
    <MessageStream {...target} limit={20} className="room" />
  </NotifyProvider>,
);
