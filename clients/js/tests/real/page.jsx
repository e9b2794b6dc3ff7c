// A page as an application would write it.

import { createRoot } from "react-dom/client";
import { MessageStream, NotifyProvider } from "@notify-server/client/react";

const getToken = async () => (await fetch("/token")).text();

createRoot(document.getElementById("page")).render(
  <NotifyProvider url={location.origin} getToken={getToken} maxAttempts={10}>
    <MessageStream sessionId="s" limit={20} className="room" />
  </NotifyProvider>,
);
